"""Compiles llama-server once per user, machine and version; keeps only the finished binaries.

Owns CACHE/llm-serving-stack/engine/ and the steps; the workshop has the lock, the tools and the
downloads. Which binary is used, and whether it fits, is engine_binary's business.
"""

import asyncio
import platform
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.engine_compile import BINARIES, Compilation
from api_server.local.engine_recipe import (
    CMAKE_FLAGS,
    ENGINE,
    SERVER,
    SOURCE_FOLDER,
    SOURCE_PACKAGE,
    cpu_identity,
    find_compiler,
    is_wanted_member,
)
from api_server.local.recipe import MB, Recipe, cache_key, format_seconds
from api_server.local.terminal import Say
from api_server.local.workshop import (
    CACHE_FOLDER,
    Entry,
    Workshop,
    folder_bytes,
    make_once,
    read_recipe,
)

SOURCE_BYTES = 77 * MB


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
        tools = entry.tools / "bin"
        compilation = Compilation(
            workshop=self.workshop,
            cmake=tools / "cmake",
            ninja=tools / "ninja",
            source=entry.source,
            tree=entry.tree,
            flags=CMAKE_FLAGS,
        )
        await compilation.configure()
        await compilation.compile()
        await compilation.try_out(
            f"remove {entry.work} and run this again, or set LLAMA_SERVER to another binary"
        )
        removed = folder_bytes(entry.work)
        kept = self.workshop.keep(compilation.finished())
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
