"""Decides what is compiled, under which cache key, with how many jobs, and what a failure means.

Pure functions of values; engine_build does the work.
"""

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from api_server.errors import SetupError

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
COMPILERS = ("c++", "g++", "clang++")

MB = 1_000_000
BUILD_PEAK_BYTES = 600 * MB
JOB_MEMORY_BYTES = 1_500 * MB
FIRST_ESTIMATE_SECONDS = 10.0

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
