"""Compiles llama-server with CUDA, without a network, and goes on where it was stopped."""

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.engine_binary import find_engine
from api_server.local.engine_build import EngineEntry
from api_server.local.engine_compile import Compilation
from api_server.local.engine_recipe import CMAKE_FLAGS, ENGINE, cpu_identity, find_compiler
from api_server.local.recipe import MB, Product, cache_key
from api_server.local.terminal import Say
from api_server.local.workshop import Workshop, make_once, read_recipe
from gpu_proof.gpus import Gpu, architectures
from gpu_proof.places import Places
from gpu_proof.toolkit import Toolkit, find_toolkit, link_libraries
from gpu_proof.unpacking import unpack

CUDA_FLAGS = ("-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF")
"""Without the library for several GPUs, which one engine on one GPU does not use."""

CUDA_ENGINE = Product(
    name="llama-server with CUDA",
    requirements=ENGINE.requirements,
    package=ENGINE.package,
    tools=ENGINE.tools,
    instead="use --device cpu",
    peak_bytes=3_000 * MB,
)


@dataclass(frozen=True)
class Engine:
    """A llama-server, and what it was compiled from."""

    server: Path
    made_of: dict[str, str]


async def build_for_cuda(places: Places, gpus: list[Gpu], say: Say) -> Engine:
    """From the inputs alone. Raises SetupError with what to do."""
    toolkit = find_toolkit()
    find_compiler(None, shutil.which)
    recipe = read_recipe(CUDA_ENGINE)
    flags = cuda_flags(toolkit, architectures(gpus))
    key = cache_key(recipe.version, sorted(flags), _cpu(), [toolkit.version])
    entry = EngineEntry(places.engines, key)
    links = places.engines / f"{key}.libraries"
    variables = ["NINJA_STATUS=[%f/%t] "]
    if toolkit.include:
        variables.append("CPATH=" + ":".join(map(str, toolkit.include)))

    async def build(workshop: Workshop) -> None:
        link_libraries(toolkit.libraries, links)
        tools = places.work / "tools"
        for archive, target in ((places.source, entry.source), (places.tools, tools)):
            if not archive.exists():
                raise SetupError(f"{archive} is not there: run `prepare` where a network is")
            if not target.exists():
                say.progress(f"unpacking {archive.name}")
                unpack(archive, target)
        compilation = Compilation(
            workshop=workshop,
            cmake=tools / "bin" / "cmake",
            ninja=tools / "bin" / "ninja",
            source=entry.source,
            tree=entry.tree,
            flags=[*flags, f"-DCMAKE_LIBRARY_PATH={links}"],
        )
        await compilation.configure()
        await compilation.compile()
        await compilation.try_out(f"see {entry.log}")
        workshop.keep(compilation.finished())

    await make_once(entry, CUDA_ENGINE, say, build, variables=variables)
    return Engine(
        entry.server,
        {"llama-cpp-python": recipe.version, "CUDA": toolkit.version, "flags": " ".join(flags)},
    )


def _cpu() -> tuple[str, ...]:
    return cpu_identity(platform.machine(), Path("/proc/cpuinfo").read_text())


def cuda_flags(toolkit: Toolkit, architecture: str) -> list[str]:
    """Those of every build here, and CUDA's."""
    compiler = f"-DCMAKE_CUDA_COMPILER={toolkit.nvcc}"
    return [*CMAKE_FLAGS, *CUDA_FLAGS, f"-DCMAKE_CUDA_ARCHITECTURES={architecture}", compiler]


async def find_for_cpu(cache_home: Path, explicit: str | None, say: Say) -> Engine:
    """The llama-server of `make local`, compiled if there is none. Raises SetupError."""
    flags = ("--parallel", "--ctx-size", "--cache-ram", "--metrics", "--jinja", "-fa")
    server = await find_engine(explicit=explicit, cache_home=cache_home, say=say, flags=flags)
    version = read_recipe(ENGINE).version
    return Engine(server, {"llama-cpp-python": version, "flags": " ".join(CMAKE_FLAGS)})
