"""Decides what is compiled, with which compiler and how many jobs, and how far a build is.

Pure functions of values; engine_build does the work.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from api_server.errors import SetupError
from api_server.local.recipe import MB, Product, format_seconds

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

JOB_MEMORY_BYTES = 1_500 * MB
FIRST_ESTIMATE_SECONDS = 10.0

ENGINE = Product(
    name=SERVER,
    requirements=Path(__file__).resolve().parents[2] / "requirements-engine.txt",
    package=SOURCE_PACKAGE,
    tools="cmake, ninja",
    instead="set LLAMA_SERVER to a llama-server binary",
    peak_bytes=600 * MB,
)


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


def parallel_jobs(cores: int, memory_bytes: int) -> int:
    """How many compilers may run at once; at least one."""
    return max(1, min(cores, memory_bytes // JOB_MEMORY_BYTES))


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


def is_wanted_member(name: str, *, is_plain: bool) -> bool:
    """Whether a member of the source archive is unpacked: plain files of llama.cpp, no `..`."""
    path = PurePosixPath(name)
    inside = PurePosixPath(*path.parts[1:])
    return is_plain and ".." not in path.parts and inside.is_relative_to(SOURCE_FOLDER)
