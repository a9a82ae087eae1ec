"""Configures, compiles and tries llama.cpp: what every build of it has in common.

Which flags, and where the source and the tools come from, is the caller's business.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.inference.memory import free_memory_bytes
from api_server.local.engine_recipe import SERVER, compile_text, parallel_jobs, parse_status
from api_server.local.programs import Outcome, run_program
from api_server.local.recipe import last_error_line
from api_server.local.workshop import Workshop

BINARIES = (SERVER, "llama-quantize")
SMOKE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Compilation:
    """One tree of CMake. cmake, ninja: the programs. What is compiled is not compiled again."""

    workshop: Workshop
    cmake: Path
    ninja: Path
    source: Path
    tree: Path
    flags: Sequence[str]
    binaries: Sequence[str] = BINARIES

    async def configure(self) -> None:
        """Raises SetupError with what CMake said."""
        places = ["-S", str(self.source), "-B", str(self.tree)]
        ninja = f"-DCMAKE_MAKE_PROGRAM={self.ninja}"
        argv = [str(self.cmake), "-G", "Ninja", *places, ninja, *self.flags]
        try:
            await self.workshop.program("configuring llama.cpp", argv)
        except SetupError:
            # So that the next attempt looks at the compiler afresh; compiled objects stay.
            (self.tree / "CMakeCache.txt").unlink(missing_ok=True)
            raise

    async def compile(self) -> None:
        """With as many jobs as the machine carries. Raises SetupError."""
        ninja = [str(self.ninja), "-C", str(self.tree)]
        listing = await run_program([*ninja, "-t", "commands", *self.binaries])
        total = sum(1 for line in listing.lines if not line.startswith("ninja:"))
        began = time.monotonic()
        done, run_total = 0, 0

        def show(lines: list[str]) -> None:
            nonlocal done, run_total
            for line in lines:
                done, run_total = parse_status(line) or (done, run_total)
            if run_total:
                seconds = time.monotonic() - began
                self.workshop.say.progress(
                    compile_text(total=total, done=done, run_total=run_total, seconds=seconds)
                )

        jobs = parallel_jobs(len(os.sched_getaffinity(0)), free_memory_bytes())
        await self.workshop.program(
            f"compiling {SERVER}", [*ninja, "-j", str(jobs), *self.binaries], on_lines=show
        )

    async def try_out(self, remedy: str) -> None:
        """Raises SetupError, with the remedy, when the server just built does not run."""
        server = self.tree / "bin" / SERVER
        try:
            async with asyncio.timeout(SMOKE_TIMEOUT_SECONDS):
                outcome = await run_program([str(server), "--version"])
        except TimeoutError:
            outcome = Outcome(1, [f"no answer within {SMOKE_TIMEOUT_SECONDS:.0f} s"])
        if outcome.returncode:
            raise SetupError(
                f"the {SERVER} just built does not run ({last_error_line(outcome.lines)}): {remedy}"
            )

    def finished(self) -> list[Path]:
        """The binaries."""
        return [self.tree / "bin" / name for name in self.binaries]
