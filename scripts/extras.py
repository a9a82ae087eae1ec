"""Runs a command in the environment of tests/extras: torch, transformers, llama-cpp-python.

It is made once for all checkouts of this user, in the cache folder, under a name that its locked
requirements, the Python and the processor decide. usage: python -m scripts.extras COMMAND...
"""

import asyncio
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from api_server.local.engine_recipe import cpu_identity
from api_server.local.programs import run_program
from api_server.local.recipe import format_seconds, last_error_line
from api_server.local.terminal import Say, TerminalSay
from api_server.local.workshop import CACHE_FOLDER, locked

ROOT = Path(__file__).resolve().parent.parent
TORCH = ROOT / "tests/extras/torch.txt"
LOCKS = (ROOT / "requirements-dev.txt", ROOT / "tests/extras/requirements.txt")
INSTALL_SECONDS = 3600.0
KEPT = 3
"""How many environments stay; the rest, used the longest ago, go when a new one is made."""

CUDA_HINT = (
    "the torch that pip found needs CUDA libraries or does not run here. Name an index of CPU "
    "builds in PIP_EXTRA_INDEX_URL (pytorch.org says which) and run this again"
)


def environment(cache_home: Path) -> Path:
    """Where the environment of this checkout lies, whether it is there or not."""
    cpu = cpu_identity(platform.machine(), Path("/proc/cpuinfo").read_text())
    parts = [sys.version, *cpu, *(path.read_text() for path in (TORCH, *LOCKS))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cache_home / CACHE_FOLDER / "extras" / f"{version}-{digest}"


async def make(home: Path, say: Say) -> None:
    """Make the environment, unless it is complete. Exits with a sentence when it cannot be made."""
    home.parent.mkdir(parents=True, exist_ok=True)
    async with locked(home.with_name(f"{home.name}.lock"), "the tests of extras", say):
        mark = home / "complete"
        if mark.exists():
            mark.touch()
            return
        began = time.monotonic()
        say.line("making the environment of tests/extras: needed once, takes some minutes")
        shutil.rmtree(home, ignore_errors=True)
        await _run([sys.executable, "-m", "venv", str(home)], say)
        python = str(home / "bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        await _run([*pip, "--no-deps", "-r", str(TORCH)], say)
        locks = [word for lock in LOCKS for word in ("-r", str(lock))]
        await _run([*pip, "--require-hashes", *locks], say)
        await _run([python, "-c", "import torch, llama_cpp"], say, CUDA_HINT)
        mark.touch()
        _forget_old_ones(home.parent)
        say.line(f"made {home} in {format_seconds(time.monotonic() - began)}")


async def _run(argv: Sequence[str], say: Say, hint: str = "run this again") -> None:
    """One step. llama.cpp is compiled for any processor of its kind: pip keeps what it has built,
    and does not know for which.
    """
    step = " ".join(Path(word).name for word in argv[:5])
    began = time.monotonic()
    async with asyncio.timeout(INSTALL_SECONDS):
        outcome = await run_program(
            ["env", "CMAKE_ARGS=-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF", *argv],
            on_lines=lambda _: say.progress(f"{step}  {format_seconds(time.monotonic() - began)}"),
        )
    if outcome.returncode:
        raise SystemExit(f"error: {step} failed: {last_error_line(outcome.lines)}: {hint}")


def _forget_old_ones(folder: Path) -> None:
    marks = sorted(folder.glob("*/complete"), key=lambda mark: mark.stat().st_mtime)
    for mark in marks[:-KEPT]:
        mark.unlink()
        shutil.rmtree(mark.parent, ignore_errors=True)


def main() -> int:
    """Command line: make the environment if need be, then run the command with its programs."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = environment(cache_home.absolute())
    asyncio.run(make(home, TerminalSay(sys.stderr)))
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = str(home / "bin" / sys.argv[1])
    os.execve(command, sys.argv[1:], os.environ | {"PATH": path})  # noqa: S606 - as asked


if __name__ == "__main__":
    sys.exit(main())
