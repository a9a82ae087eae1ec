"""The engine's compilation against real processes: stand-ins for cmake, ninja and pip.

The stand-in for Ninja prints its status lines, starts each compiler in a process group of its own
and skips what is compiled, as the real one does; what it shall do stands in files beside the tree.
"""

import asyncio
import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from api_server.errors import SetupError
from api_server.local import engine_build, programs, workshop
from api_server.local.engine_build import EngineEntry, build_engine, engine_entry
from api_server.local.engine_recipe import ENGINE
from api_server.local.programs import Outcome, run_program, session_members
from api_server.local.workshop import read_recipe
from tests.said import Said

STEPS = 6
SERVER_SCRIPT = "#!/bin/sh\necho version: 1\n"
NINJA = f"""#!{sys.executable}
import os, subprocess, sys
from pathlib import Path

tree = Path(sys.argv[sys.argv.index("-C") + 1])
told = tree.parent / "told"
if "-t" in sys.argv:
    print("ninja: Entering directory")
    print("c++\\n" * {STEPS}, end="")
    sys.exit()
left = [n for n in range({STEPS}) if not (tree / f"{{n}}.o").exists()]
for done, n in enumerate(left, start=1):
    with (tree.parent.parent / "compiled.txt").open("a") as journal:
        journal.write(f"{{n}}\\n")
    compiler = told / "compiler"
    program = ["sh", "-c", compiler.read_text() if compiler.exists() else "exit 0"]
    if subprocess.run(program, process_group=0, cwd=tree, close_fds=False).returncode:
        print("FAILED: [code=1] a.o\\nninja: build stopped: subcommand failed.")
        sys.exit(1)
    (tree / f"{{n}}.o").touch()
    print(f"[{{done}}/{{len(left)}}] Building CXX object {{n}}.o", flush=True)
(tree / "bin").mkdir(exist_ok=True)
server = told / "server"
for name in ("llama-server", "llama-quantize"):
    (tree / "bin" / name).write_text(server.read_text() if server.exists() else {SERVER_SCRIPT!r})
    (tree / "bin" / name).chmod(0o755)
"""
CMAKE = """#!/bin/sh
while [ "$1" != -B ]; do shift; done
mkdir -p "$2"
"""


class Seeded(NamedTuple):
    """A cache with the stand-ins in place of the installed tools, and an unpacked source."""

    home: Path
    entry: EngineEntry

    def tell(self, name: str, text: str) -> None:
        told = self.entry.work / "told"
        told.mkdir(exist_ok=True)
        (told / name).write_text(text)

    def forget(self) -> None:
        shutil.rmtree(self.entry.work / "told")

    def tool(self, name: str, text: str) -> None:
        path = self.entry.tools / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def compiled(self) -> list[int]:
        """Which steps were begun, in order."""
        journal = self.entry.root / "compiled.txt"
        return [int(line) for line in journal.read_text().split()] if journal.exists() else []

    def is_locked(self) -> bool:
        with self.entry.lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    async def build(self, said: Said | None = None) -> Path:
        return await build_engine(cache_home=self.home, say=said or Said(), compiler=sys.executable)


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    recipe = read_recipe(ENGINE)
    seeded = Seeded(tmp_path, engine_entry(tmp_path, recipe))
    (seeded.entry.tools / "bin").mkdir(parents=True)
    seeded.entry.tools_stamp.write_text(recipe.tools)
    seeded.entry.source.mkdir()
    seeded.tool("cmake", CMAKE)
    seeded.tool("ninja", NINJA)
    return seeded


def processes_of(folder: Path) -> list[str]:
    """Command lines of the living processes that mention or work in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(command)
    return found


async def test_only_the_two_binaries_remain(seeded: Seeded) -> None:
    said = Said()
    server = await seeded.build(said)
    assert server == seeded.entry.finished / "llama-server"
    assert sorted(path.name for path in server.parent.iterdir()) == ["llama-quantize", server.name]
    assert not seeded.entry.work.exists()
    assert said.lines[0].startswith("building llama-server from llama-cpp-python")
    assert str(server.parent) in said.lines[-1]
    assert said.percentages()[-1] == 100


async def test_a_finished_engine_is_not_built_again(seeded: Seeded) -> None:
    first = await seeded.build()
    said = Said()
    assert await seeded.build(said) == first
    assert said.lines == []
    assert seeded.compiled() == list(range(STEPS))


async def test_what_a_killed_clean_up_left_is_removed(seeded: Seeded) -> None:
    await seeded.build()
    (seeded.entry.work / "tree").mkdir(parents=True)
    await seeded.build()
    assert not seeded.entry.work.exists()


async def test_an_entry_that_lacks_a_binary_is_built_again(seeded: Seeded) -> None:
    seeded.entry.finished.mkdir()
    (seeded.entry.finished / "llama-server").write_text(SERVER_SCRIPT)
    await seeded.build()
    assert (seeded.entry.finished / "llama-quantize").exists()


@pytest.mark.parametrize("compiler", ["sleep 60", "trap '' TERM; sleep 60; sleep 60"])
async def test_a_cancelled_build_leaves_no_process_and_is_resumed(
    seeded: Seeded, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "END_GRACE_SECONDS", 0.5)
    seeded.tell("compiler", f"[ ! -e 1.o ] || {{ touch started; {compiler}; }}")
    said = Said()
    build = asyncio.create_task(seeded.build(said))
    await said.until(lambda _: (seeded.entry.tree / "started").exists())
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    assert processes_of(seeded.home) == []
    assert not seeded.is_locked()
    assert not seeded.entry.finished.exists()
    assert max(said.percentages()) == 33

    seeded.forget()
    again = Said()
    await seeded.build(again)
    assert seeded.compiled() == [0, 1, 2, 2, 3, 4, 5]
    assert again.lines[0].startswith("going on with the stopped build")
    assert min(again.percentages()) >= 33


async def test_a_second_build_waits_for_the_first(seeded: Seeded) -> None:
    seeded.tell("compiler", "while [ ! -e go ]; do sleep 0.02; done")
    one, two = Said(), Said()
    first = asyncio.create_task(seeded.build(one))
    await one.until(lambda _: seeded.compiled() == [0])
    second = asyncio.create_task(seeded.build(two))
    await two.until(lambda said: bool(said.lines))
    (seeded.entry.tree / "go").touch()
    assert await first == await second
    assert two.lines == ["another make local is building llama-server; waiting for it"]
    assert seeded.compiled() == list(range(STEPS))


async def test_a_waiting_build_can_be_cancelled(seeded: Seeded) -> None:
    seeded.tell("compiler", "sleep 60")
    said = Said()
    first = asyncio.create_task(seeded.build())
    await said.until(lambda _: seeded.compiled() == [0])
    second = asyncio.create_task(seeded.build(said))
    await said.until(lambda said: bool(said.lines))
    for build in (second, first):
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
    assert processes_of(seeded.home) == []


async def test_after_kill_9_the_lock_is_held_until_the_last_compiler_ended(
    seeded: Seeded,
) -> None:
    seeded.tell("compiler", "touch started; while [ ! -e go ]; do sleep 0.02; done")
    program = (
        "import asyncio, pathlib, sys\n"
        "from api_server.local.engine_build import build_engine\n"
        "from api_server.local.terminal import TerminalSay\n"
        "asyncio.run(build_engine(cache_home=pathlib.Path(sys.argv[1]), "
        "say=TerminalSay(sys.stdout), compiler=sys.executable))\n"
    )
    victim = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(seeded.home),
        cwd=Path(engine_build.__file__).parents[2],
        stdout=subprocess.DEVNULL,
    )
    said = Said()
    await said.until(lambda _: (seeded.entry.tree / "started").exists())
    victim.kill()
    await victim.wait()
    await asyncio.sleep(0.2)
    assert not any("ninja" in command for command in processes_of(seeded.home))
    assert seeded.is_locked()

    build = asyncio.create_task(seeded.build(said))
    await said.until(lambda said: bool(said.lines))
    (seeded.entry.tree / "go").touch()
    await build
    assert said.lines[0].startswith("another make local")
    assert seeded.compiled() == [0, *range(STEPS)]


async def test_a_failing_compilation_names_the_error_and_the_log(seeded: Seeded) -> None:
    seeded.tell("compiler", "[ ! -e 1.o ] || { echo 'a.cpp:3:5: error: no such thing'; exit 1; }")
    with pytest.raises(SetupError) as caught:
        await seeded.build()
    assert str(caught.value) == (
        "compiling llama-server failed: a.cpp:3:5: error: no such thing "
        f"(the whole output is in {seeded.entry.log})"
    )
    log = seeded.entry.log.read_text()
    assert "[2/6] Building" in log
    assert "no such thing" in log
    seeded.forget()
    await seeded.build()
    assert seeded.compiled() == [0, 1, 2, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("compiler", "sentence"),
    [
        ("echo 'as: x.o: No space left on device'; exit 1", "the disk is full: free some space"),
        ("echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 1", "memory"),
        ("kill -9 $PPID", "failed: error: ended by signal 9"),
    ],
)
async def test_a_compilation_that_lacks_something_says_what(
    seeded: Seeded, compiler: str, sentence: str
) -> None:
    seeded.tell("compiler", compiler)
    with pytest.raises(SetupError, match=sentence):
        await seeded.build()


async def test_a_full_disk_met_by_ourselves_says_so(seeded: Seeded) -> None:
    seeded.entry.log.symlink_to("/dev/full")
    with pytest.raises(SetupError, match="the disk is full: free some space"):
        await seeded.build()


async def test_a_disk_that_is_too_small_is_noticed_before_anything_is_done(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))(10**12, 10**12, 50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SetupError, match=r"needs \d+ MB of disk space and there are 50 MB where"):
        await seeded.build()
    assert seeded.compiled() == []


async def test_a_cache_that_is_no_folder_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot write to .*XDG_CACHE_HOME"):
        await build_engine(cache_home=tmp_path / "file", say=Said(), compiler=sys.executable)


async def test_a_failing_configuration_is_looked_at_afresh(seeded: Seeded) -> None:
    text = "mkdir -p $2; touch $2/CMakeCache.txt; echo 'CMake Error at x:1:'; echo ' none'; exit 1"
    seeded.tool("cmake", CMAKE.replace("mkdir", f"{text}; mkdir"))
    with pytest.raises(SetupError, match=r"configuring llama.cpp failed: CMake Error at x:1: none"):
        await seeded.build()
    assert seeded.entry.tree.exists()
    assert not (seeded.entry.tree / "CMakeCache.txt").exists()


async def test_a_built_binary_that_does_not_run_is_not_kept(seeded: Seeded) -> None:
    seeded.tell("server", "#!/bin/sh\necho 'error: illegal instruction'; exit 132\n")
    with pytest.raises(SetupError, match=r"does not run \(error: illegal instruction\): remove"):
        await seeded.build()
    assert not seeded.entry.finished.exists()


def fake_pip(archive: Path) -> str:
    """Stands in for the tools' python: `-m pip download ... --dest DIR` copies the archive."""
    return f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\ncp {archive} "$2"/\n'


def write_archive(path: Path) -> None:
    """A source package with llama.cpp, other things, a link, and a path that climbs out."""
    names = ["vendor/llama.cpp/CMakeLists.txt", "vendor/llama.cpp/src/a.cpp", "tests/t.py"]
    with tarfile.open(path, "w:gz") as archive:
        for name in [*names, "vendor/llama.cpp/../../../../evil"]:
            member = tarfile.TarInfo(f"pkg-1/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("pkg-1/vendor/llama.cpp/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


async def test_the_source_is_downloaded_and_unpacked_safely(seeded: Seeded, tmp_path: Path) -> None:
    seeded.entry.source.rmdir()
    write_archive(tmp_path / "pkg-1.tar.gz")
    seeded.tool("python", fake_pip(tmp_path / "pkg-1.tar.gz"))
    seeded.tell("compiler", "exit 1")
    with pytest.raises(SetupError, match="compiling"):
        await seeded.build()
    source = seeded.entry.source
    assert sorted(str(path.relative_to(source)) for path in source.rglob("*")) == [
        "CMakeLists.txt",
        "src",
        "src/a.cpp",
    ]
    assert list(tmp_path.rglob("evil")) == []
    assert not seeded.entry.archive.exists()


async def test_a_broken_archive_is_downloaded_anew_the_next_time(
    seeded: Seeded, tmp_path: Path
) -> None:
    seeded.entry.source.rmdir()
    whole, broken = tmp_path / "pkg-1.tar.gz", tmp_path / "broken.tar.gz"
    write_archive(whole)
    broken.write_bytes(whole.read_bytes()[:150])
    seeded.tool("python", fake_pip(broken))
    with pytest.raises(SetupError, match="cannot be unpacked"):
        await seeded.build()
    seeded.tool("python", fake_pip(whole))
    await seeded.build()


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("NewConnectionError: Failed to establish a new connection", "cannot reach the package"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE FILE", "hash is not the pinned"),
    ],
)
async def test_a_failing_download_says_why(seeded: Seeded, output: str, sentence: str) -> None:
    seeded.entry.source.rmdir()
    seeded.tool("python", f"#!/bin/sh\necho '{output}'\nexit 1\n")
    with pytest.raises(SetupError, match=f"downloading the llama.cpp source .*{sentence}"):
        await seeded.build()


async def test_changed_tools_are_installed_again(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seeded.entry.tools_stamp.write_text("cmake==0")
    no_venv = tmp_path / "python"
    no_venv.write_text("#!/bin/sh\necho 'because ensurepip is not available.'\nexit 1\n")
    no_venv.chmod(0o755)

    async def run_untethered(argv: list[str], **options: object) -> Outcome:
        swapped = [str(no_venv) if word == sys.executable else word for word in argv]
        return await run_program(swapped, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(workshop, "run_program", run_untethered)
    with pytest.raises(SetupError, match="apt install python3-venv"):
        await seeded.build()
    assert not seeded.entry.tools_stamp.exists()


async def test_a_program_cannot_leave_children_behind(tmp_path: Path) -> None:
    outcome = await run_program(["sh", "-c", f"cd {tmp_path}; sleep 60 >/dev/null 2>&1 & echo hi"])
    assert (outcome.returncode, outcome.lines) == (0, ["hi"])
    assert processes_of(tmp_path) == []


async def test_a_program_may_write_very_long_and_unended_lines() -> None:
    outcome = await run_program(
        ["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x; printf '\\ny'"]
    )
    assert [len(line) for line in outcome.lines] == [300_000, 1]


async def test_a_flood_of_output_does_not_hold_up_the_end() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await run_program(["sh", "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"])
    assert time.monotonic() - began < 2


def test_the_members_of_a_session_are_found() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert session_members(child.pid) == [child.pid]
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert session_members(child.pid) == []
