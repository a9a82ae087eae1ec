"""Chooses the llama-server that `make local` runs, and makes sure that it understands our flags.

Order: the one the operator names, one on PATH, else the one that engine_build compiles.
"""

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.engine_build import build_engine
from api_server.local.programs import run_program
from api_server.local.recipe import last_error_line
from api_server.local.terminal import Say

CHECK_TIMEOUT_SECONDS = 10.0


async def find_engine(
    *,
    explicit: str | None,
    cache_home: Path,
    say: Say,
    flags: Sequence[str],
    compiler: str | None = None,
) -> Path:
    """The path of a llama-server that runs here and understands every flag in `flags`.

    explicit: the value of LLAMA_SERVER, a path or a name on PATH; cache_home and compiler: as
    build_engine takes them. Takes minutes when it must build. Raises SetupError with what to do.
    """
    if explicit:
        return await _named_engine(explicit, flags)
    found = look_up("llama-server")
    if found is not None:
        fault = await engine_fault(found, flags)
        if fault is None:
            return found
        say.line(f"not using {found} from PATH: it {fault}")
    built = await build_engine(cache_home=cache_home, say=say, compiler=compiler)
    fault = await engine_fault(built, flags)
    if fault is not None:
        raise SetupError(
            f"the llama-server built for this machine {fault}: remove {built.parent} and run this "
            "again to build it anew, or set LLAMA_SERVER to another llama-server binary"
        )
    return built


async def _named_engine(explicit: str, flags: Sequence[str]) -> Path:
    path = look_up(explicit)
    if path is None:
        raise SetupError(
            f"LLAMA_SERVER is {explicit!r}, which is no program: set it to the path of a "
            "llama-server binary, or unset it to have one built"
        )
    fault = await engine_fault(path, flags)
    if fault is not None:
        raise SetupError(
            f"LLAMA_SERVER is {explicit!r}, which {fault}: set it to a newer llama-server binary, "
            "or unset it to have one built"
        )
    return path


def look_up(program: str) -> Path | None:
    """The absolute path of a program, given as a path (`~` allowed) or a name on PATH."""
    found = shutil.which(str(Path(program).expanduser()) if "/" in program else program)
    return Path(found).absolute() if found else None


async def engine_fault(engine: Path, flags: Sequence[str]) -> str | None:
    """What is wrong with a binary, as a predicate (`does not run: ...`); None when it fits."""
    for question in ("--version", "--help"):
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                outcome = await run_program([str(engine), question])
        except TimeoutError:
            return f"does not answer {question} within {CHECK_TIMEOUT_SECONDS:.0f} s"
        if outcome.returncode:
            return f"does not run: {last_error_line(outcome.lines)}"
    missing = missing_flags("\n".join(outcome.lines), flags)
    return f"does not understand {', '.join(missing)}" if missing else None


def missing_flags(help_text: str, flags: Sequence[str]) -> list[str]:
    """Those of `flags` that do not stand in the help text as whole words."""
    return [
        flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_text)
    ]
