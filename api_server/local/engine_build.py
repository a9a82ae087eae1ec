"""Compiles llama-server once per user, machine and version; keeps only the finished binaries.

Owns CACHE/llm-serving-stack/engine/: KEY/ (finished), KEY.building/ (work in progress, resumed by
the next call) and KEY.lock. Which binary is used, and whether it fits, is engine_binary's business.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tarfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from api_server.errors import SetupError
from api_server.local.process import tether_command
from api_server.local.terminal import Say

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements-engine.txt"
SOURCE_PACKAGE = "llama-cpp-python"
SOURCE_FOLDER = PurePosixPath("vendor/llama.cpp")
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    # A compiler cache may start a daemon, which would outlive us and keep our lock.
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
SERVER = "llama-server"
BINARIES = (SERVER, "llama-quantize")
COMPILERS = ("c++", "g++", "clang++")

MB = 1_000_000
BUILD_PEAK_BYTES = 600 * MB
SOURCE_BYTES = 77 * MB
JOB_MEMORY_BYTES = 1_500 * MB

TICK_SECONDS = 1.0
END_GRACE_SECONDS = 3.0
END_POLL_SECONDS = 0.02
LOCK_POLL_SECONDS = 0.5
SMOKE_TIMEOUT_SECONDS = 10.0
FIRST_ESTIMATE_SECONDS = 10.0
TAIL_LINES = 2_000

NETWORK_SIGNS = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "NameResolutionError",
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Read timed out",
    "ProxyError",
    "Network is unreachable",
    "Connection refused",
    "Connection reset",
)
DISK_SIGNS = ("No space left on device", "Disk quota exceeded")
MEMORY_SIGNS = ("Killed signal terminated program", "Cannot allocate memory", "out of memory")


# ---------------------------------------------------------------- decisions: functions of values


@dataclass(frozen=True)
class Recipe:
    """The two parts of requirements-engine.txt, each a requirements file of its own."""

    tools: str
    source: str
    version: str


def parse_recipe(text: str) -> Recipe:
    """Split the text into the build tools and the source package, whose version it reads."""
    tools: list[str] = []
    source: list[str] = []
    version = ""
    for requirement in re.findall(r"^(?!#|\s)(?:.*\\\n)*.*\n?", text, flags=re.MULTILINE):
        name, _, rest = requirement.partition("==")
        if name.strip() == SOURCE_PACKAGE:
            source.append(requirement)
            version = rest.split()[0]
        else:
            tools.append(requirement)
    if not version:
        raise SetupError(
            f"requirements-engine.txt pins no {SOURCE_PACKAGE}: restore that file from git"
        )
    return Recipe(tools="".join(tools), source="".join(source), version=version)


def cpu_identity(machine: str, cpuinfo: str) -> tuple[str, ...]:
    """What -march=native depends on: architecture, model, sorted features (of the first CPU)."""
    first, _, _ = cpuinfo.partition("\n\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    models = [fields.get(name, "") for name in ("model name", "cpu implementer", "cpu part")]
    features = fields.get("flags") or fields.get("features") or ""
    return (machine, *models, *sorted(features.split()))


def cache_key(version: str, flags: Iterable[str], cpu: Iterable[str]) -> str:
    """The name of the cache entry: version, then 12 hex digits over flags and CPU."""
    text = "\n".join([*sorted(flags), "", *cpu])
    return f"{version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def parallel_jobs(cores: int, memory_bytes: int) -> int:
    """How many compilers may run at once; at least one."""
    return max(1, min(cores, memory_bytes // JOB_MEMORY_BYTES))


def available_memory(meminfo: str, cgroup_limit: str) -> int:
    """Bytes free for compilers: MemAvailable of /proc/meminfo, or the container's limit if less."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, flags=re.MULTILINE)
    free = int(found[1]) * 1024 if found else JOB_MEMORY_BYTES
    return min(free, int(cgroup_limit)) if cgroup_limit.strip().isdigit() else free


def missing_space(free_bytes: int, already_used_bytes: int) -> int:
    """How many bytes the disk lacks for the build; what a stopped build left there counts."""
    return max(0, BUILD_PEAK_BYTES - already_used_bytes - free_bytes)


def find_compiler(compiler: str | None, which: Callable[[str], str | None]) -> str:
    """The C++ compiler to use: `compiler` (the value of CXX, may carry arguments) or a usual name.

    Raises SetupError when there is none.
    """
    if compiler and compiler.strip():
        program = shlex.split(compiler)[0]
        if which(program) is None:
            raise SetupError(
                f"CXX is {compiler!r}, but there is no program {program!r}: "
                "correct or unset CXX and run this again"
            )
        return program
    for name in COMPILERS:
        if which(name) is not None:
            return name
    raise SetupError(
        "llama-server must be compiled once, but there is no C++ compiler: install one "
        "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; Arch: pacman -S gcc) "
        "and run this again, or set LLAMA_SERVER to a llama-server binary"
    )


def parse_status(line: str) -> tuple[int, int] | None:
    """Ninja's `[done/total] ...` as two numbers; None for any other line."""
    found = re.match(r"\[(\d+)/(\d+)\] ", line)
    return (int(found[1]), int(found[2])) if found else None


def format_seconds(seconds: float) -> str:
    """`45s`, `1m20s`, `1h05m`."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{left:02}s" if minutes else f"{left}s"


def compile_text(*, total: int, done: int, run_total: int, seconds: float) -> str:
    """The progress line of a compilation.

    total: steps of a build from nothing; done, run_total: Ninja's count in this run, which after a
    stopped build covers only what was left; seconds: since this run began.
    """
    share = (max(total, run_total) - run_total + done) / max(total, run_total, 1)
    text = f"building {SERVER}  {int(share * 100)} %  {format_seconds(seconds)} elapsed"
    if 0 < done < run_total and seconds >= FIRST_ESTIMATE_SECONDS:
        left = (run_total - done) * seconds / done
        text += f", about {format_seconds(-(-left // 10) * 10)} left"
    return text


def last_error_line(lines: Sequence[str]) -> str:
    """The last line of a tool's output that says what went wrong, shortened to 300 characters."""
    said = [line.strip() for line in lines]
    for number in range(len(said) - 1, -1, -1):
        line = said[number]
        if line.startswith("CMake Error"):
            following = next((text for text in said[number + 1 :] if text), "")
            return f"{line} {following}"[:300]
        if re.search(r"\berror: (?!ld returned)|undefined reference", line, re.IGNORECASE):
            return line[:300]
    noise = ("ninja: build stopped", "FAILED:", "[notice]")
    telling = [line for line in said if line and not line.startswith(noise)]
    return telling[-1][:300] if telling else "it ended without a word"


def failure_sentence(step: str, lines: Sequence[str], log: Path) -> str:
    """What to tell the operator when a step failed with this output."""
    text = "\n".join(lines)
    if any(sign in text for sign in DISK_SIGNS):
        return disk_full_sentence(log.parent)
    if any(sign in text for sign in MEMORY_SIGNS):
        return (
            f"{step} ran out of memory: close other programs and run this again; "
            "what is compiled is kept"
        )
    if "DO NOT MATCH THE HASHES" in text or "Hashes are required" in text:
        return (
            f"{step} got a file whose hash is not the pinned one: the package index or a proxy "
            f"gave other bytes than requirements-engine.txt expects (see {log})"
        )
    if any(sign in text for sign in NETWORK_SIGNS):
        return (
            f"{step} cannot reach the package index: connect to the network (or correct pip's "
            "index and proxy settings) and run this again, or set LLAMA_SERVER to a llama-server "
            "binary"
        )
    if "ensurepip is not available" in text:
        return (
            f"{step} needs Python's venv module: install it (Debian, Ubuntu: apt install "
            "python3-venv) and run this again"
        )
    return f"{step} failed: {last_error_line(lines)} (the whole output is in {log})"


def disk_full_sentence(folder: Path) -> str:
    """The disk got full while building."""
    return (
        f"the disk is full: free some space where {folder} lies (a build from nothing needs "
        f"{BUILD_PEAK_BYTES // MB} MB) and run this again; what is compiled is kept"
    )


def is_wanted_member(name: str, *, is_plain: bool) -> bool:
    """Whether a member of the source archive is unpacked: plain files of llama.cpp, no `..`."""
    path = PurePosixPath(name)
    inside = PurePosixPath(*path.parts[1:])
    return is_plain and ".." not in path.parts and inside.is_relative_to(SOURCE_FOLDER)


# ---------------------------------------------------------------------- processes and their end


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit status and its last lines (standard output and error)."""

    returncode: int
    lines: list[str]


async def run_program(
    argv: Sequence[str],
    *,
    on_lines: Callable[[list[str]], None] | None = None,
    keep_open: Sequence[int] = (),
) -> Outcome:
    """Run a program in a session of its own until it ends; no process of it outlives the call.

    `on_lines` gets new whole lines as they come, and an empty list after each quiet second. On
    cancellation the session gets SIGTERM, then SIGKILL. What cannot be started ends with status 1.
    """
    process = await asyncio.create_subprocess_exec(
        *tether_command(list(argv)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=keep_open,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        async for lines in _lines(process):
            tail.extend(lines)
            if on_lines:
                on_lines(lines)
        return Outcome(await process.wait(), list(tail))
    finally:
        await _end_session(process)


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[list[str]]:
    """New whole lines of any length, as they come; an empty list after each quiet second."""
    rest = b""
    while process.stdout:
        try:
            async with asyncio.timeout(TICK_SECONDS):
                chunk = await process.stdout.read(65536)
        except TimeoutError:
            yield []
            continue
        *whole, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            whole = [rest]
        yield [line.decode(errors="replace").rstrip() for line in whole]
        if not chunk:
            break


async def _end_session(process: asyncio.subprocess.Process) -> None:
    """Leave no process of the program's session alive, even if cancelled meanwhile."""
    try:
        signal_session(process.pid, signal.SIGTERM)
        for _ in range(int(END_GRACE_SECONDS / END_POLL_SECONDS)):
            if not session_members(process.pid):
                break
            await asyncio.sleep(END_POLL_SECONDS)
    finally:
        signal_session(process.pid, signal.SIGKILL)
        # To its end, so that the pipe is closed; a stray daemon that holds it is not waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_SECONDS):
                while process.stdout and await process.stdout.read(65536):
                    pass
        await process.wait()


def session_members(session: int) -> list[int]:
    """The living processes of a session. Ninja gives each compiler a process group of its own."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue
            state, _, _, its_session = stat.rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                members.append(int(entry.name))
    return members


def signal_session(session: int, number: signal.Signals) -> None:
    """Signal every process of a session."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# --------------------------------------------------------------------------- the cache on disk


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


# ------------------------------------------------------------------------------------ the build


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
                _check_space(entry)
                _clear_scratch(entry)
                with entry.log.open("w") as log:
                    await _Build(entry, recipe, say, log, lock).run()
            shutil.rmtree(entry.work, ignore_errors=True)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(disk_full_sentence(entry.work)) from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise SetupError(
                f"cannot write to {exc.filename or entry.root}: make it writable for you, or set "
                "XDG_CACHE_HOME to a folder that is, and run this again"
            ) from exc
        raise
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

        jobs = parallel_jobs(len(os.sched_getaffinity(0)), _free_memory())
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
        log_and_show([f"$ {shlex.join(argv)}"])
        outcome = await run_program(
            ["env", *settings, *argv], on_lines=log_and_show, keep_open=[self.lock]
        )
        if outcome.returncode:
            ended = [f"error: ended by signal {-outcome.returncode}"] * (outcome.returncode < 0)
            raise SetupError(failure_sentence(step, outcome.lines + ended, self.entry.log))


def _free_memory() -> int:
    limit = Path("/sys/fs/cgroup/memory.max")
    return available_memory(
        Path("/proc/meminfo").read_text(), limit.read_text() if limit.exists() else ""
    )
