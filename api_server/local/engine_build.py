"""Compiles llama-server once per user, machine and version; keeps only the finished binaries.

Owns CACHE/llm-serving-stack/engine/ and the steps; the workshop has the lock, the tools and the
downloads. Which binary is used, and whether it fits, is engine_binary's business.
"""

import asyncio
import os
import platform
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.inference.memory import free_memory_bytes
from api_server.local.engine_recipe import (
    CMAKE_FLAGS,
    ENGINE,
    SERVER,
    SOURCE_FOLDER,
    SOURCE_PACKAGE,
    compile_text,
    cpu_identity,
    find_compiler,
    is_wanted_member,
    parallel_jobs,
    parse_status,
)
from api_server.local.programs import Outcome, run_program
from api_server.local.recipe import MB, Recipe, cache_key, format_seconds, last_error_line
from api_server.local.terminal import Say
from api_server.local.workshop import (
    CACHE_FOLDER,
    Entry,
    Workshop,
    folder_bytes,
    make_once,
    read_recipe,
)

BINARIES = (SERVER, "llama-quantize")
SOURCE_BYTES = 77 * MB
SMOKE_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class EngineEntry(Entry):
    """The paths of one compiled engine."""

    names: tuple[str, ...] = BINARIES

    @property
    def server(self) -> Path:
        """The finished llama-server."""
        return self.finished / SERVER

    @property
    def source(self) -> Path:
        """The unpacked llama.cpp tree."""
        return self.work / "source"

    @property
    def tree(self) -> Path:
        """CMake's build tree."""
        return self.work / "tree"


def engine_entry(cache_home: Path, recipe: Recipe) -> EngineEntry:
    """The cache entry of this recipe on this machine."""
    cpu = cpu_identity(platform.machine(), Path("/proc/cpuinfo").read_text())
    key = cache_key(recipe.version, sorted(CMAKE_FLAGS), cpu)
    return EngineEntry(cache_home.absolute() / CACHE_FOLDER / "engine", key)


async def build_engine(*, cache_home: Path, say: Say, compiler: str | None = None) -> Path:
    """The path of a llama-server compiled for this machine, from the cache or built now.

    cache_home: $XDG_CACHE_HOME or ~/.cache; compiler: the value of CXX, if set. Takes minutes when
    it builds. Can be cancelled at any moment: the next call goes on where this one stopped.
    Raises SetupError with what to do when it cannot be built.
    """
    recipe = read_recipe(ENGINE)
    entry = engine_entry(cache_home, recipe)
    if not entry.is_finished():
        find_compiler(compiler, shutil.which)
    variables = ["NINJA_STATUS=[%f/%t] "] + ([f"CXX={compiler}"] if compiler else [])

    async def build(workshop: Workshop) -> None:
        await _Build(entry, recipe, workshop).run()

    await make_once(entry, ENGINE, say, build, variables=variables)
    return entry.server


@dataclass(frozen=True)
class _Build:
    """The steps of one attempt. Each is skipped when an earlier attempt finished it."""

    entry: EngineEntry
    recipe: Recipe
    workshop: Workshop

    async def run(self) -> None:
        entry, say = self.entry, self.workshop.say
        began = time.monotonic()
        goes_on = "going on with the stopped build of" if entry.tree.exists() else "building"
        say.line(
            f"{goes_on} {SERVER} from {SOURCE_PACKAGE} {self.recipe.version}: needed once, takes "
            "some minutes, may be stopped with Ctrl-C and goes on the next time"
        )
        await self.workshop.install_tools(self.recipe)
        if not entry.source.exists():
            await self.workshop.download(
                self.recipe,
                what="the llama.cpp source",
                how=["--no-binary", ":all:", "--no-build-isolation"],
                expected_bytes=SOURCE_BYTES,
            )
            await self._unpack()
        await self._configure()
        await self._compile()
        await self._smoke_check()
        removed = folder_bytes(entry.work)
        kept = self.workshop.keep(entry.tree / "bin" / name for name in BINARIES)
        say.line(
            f"built {SERVER} in {format_seconds(time.monotonic() - began)}: {kept / MB:.0f} MB are "
            f"kept in {entry.finished}, {(removed - kept) / MB:.0f} MB are removed again"
        )

    async def _unpack(self) -> None:
        entry = self.entry
        self.workshop.say.progress("unpacking the llama.cpp source")
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
        argv = [*cmake, *places, ninja, *CMAKE_FLAGS]
        try:
            await self.workshop.program("configuring llama.cpp", argv)
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
                self.workshop.say.progress(
                    compile_text(total=total, done=done, run_total=run_total, seconds=seconds)
                )

        jobs = parallel_jobs(len(os.sched_getaffinity(0)), free_memory_bytes())
        await self.workshop.program(
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
