"""Collects, on a machine with a network, all that the proof needs on one without."""

import hashlib
import json
import lzma
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from api_server.errors import SetupError
from api_server.local.engine_build import SOURCE_BYTES
from api_server.local.engine_recipe import ENGINE, SOURCE_FOLDER
from api_server.local.recipe import MB, Product
from api_server.local.terminal import Say
from api_server.local.workshop import Entry, Workshop, make_once, read_recipe
from gpu_proof.choosing import (
    LARGEST_BYTES,
    in_order,
    is_wanted_package_file,
    is_wanted_source,
    is_wanted_tool,
    pip_platforms,
)
from gpu_proof.places import REPOSITORY, Places

PACKAGES = REPOSITORY / "requirements-load.txt"
INPUTS = Product(
    name="the inputs of the GPU proof",
    requirements=ENGINE.requirements,
    package=ENGINE.package,
    tools=ENGINE.tools,
    instead="run this where a package index can be reached",
    peak_bytes=900 * MB,
)
EXPECTED = (
    "Linux on x86-64 with glibc 2.34 or newer",
    "an NVIDIA driver (nvidia-smi) and the CUDA toolkit (nvcc, cuBLAS)",
    "a C++ compiler that this nvcc takes",
    "one of the Pythons, with lzma",
)
NAMES = ("llama.cpp.tar.xz", "tools.tar.xz", "packages.tar.xz")


async def prepare(places: Places, pythons: Sequence[str], say: Say) -> None:
    """Fill the inputs' folder. Raises SetupError, also when they are too large."""
    recipe = read_recipe(INPUTS)
    entry = Entry(places.work / "inputs", f"{recipe.version}-{'-'.join(pythons)}", NAMES)

    async def build(workshop: Workshop) -> None:
        await workshop.install_tools(recipe)
        await workshop.download(
            recipe,
            what="the llama.cpp source",
            how=["--no-binary", ":all:", "--no-build-isolation"],
            expected_bytes=SOURCE_BYTES,
        )
        await _packages(workshop, pythons)
        say.progress("packing the llama.cpp source")
        repack(entry.archive, entry.work / NAMES[0])
        say.progress("packing the build tools")
        _pack_tools(entry.tools, entry.work / NAMES[1])
        say.progress("packing the packages: a minute or two")
        _pack(entry.scratch / "packages", entry.work / NAMES[2])
        workshop.keep(entry.work / name for name in NAMES)

    await make_once(entry, INPUTS, say, build)
    places.inputs.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (places.inputs / name).write_bytes((entry.finished / name).read_bytes())
    contents = describe(places.inputs, recipe.version, pythons)
    places.contents.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    total = sum(file["bytes"] for file in contents["files"].values())
    say.line(f"{places.inputs}: {total / MB:.1f} MB in {len(NAMES)} files")
    if total > LARGEST_BYTES:
        raise SetupError(
            f"the inputs have {total / MB:.1f} MB, more than {LARGEST_BYTES / MB:.1f}: "
            "name one Python, --pythons 3.12"
        )


async def _packages(workshop: Workshop, pythons: Sequence[str]) -> None:
    """What the gateway and the load tests import, unpacked for each Python, hashes checked."""
    for python in pythons:
        platforms = [word for each in pip_platforms() for word in ("--platform", each)]
        target = workshop.entry.scratch / "packages" / f"site-{python}"
        arguments = [
            *("install", "--require-hashes", "--no-deps", "--no-compile", "--only-binary=:all:"),
            *("--python-version", python, "--implementation", "cp", *platforms),
            *("--target", str(target), "-r", str(PACKAGES)),
        ]
        pip = [str(workshop.entry.python), "-I", "-m", "pip", "--disable-pip-version-check"]
        await workshop.program(
            f"fetching the packages for Python {python}", [*pip, "--no-input", *arguments]
        )


def repack(archive: Path, target: Path) -> None:
    """Of the source package only what the build needs, at the top."""
    with tarfile.open(archive) as source, tarfile.open(target, "w:xz") as packed:
        for member in source:
            if member.isreg() and is_wanted_source(member.name):
                inside = "/".join(member.name.split("/")[1:]).removeprefix(f"{SOURCE_FOLDER}/")
                renamed = tarfile.TarInfo(inside)  # anew: long names stand in more than one place
                renamed.size, renamed.mode = member.size, member.mode
                packed.addfile(renamed, source.extractfile(member))


def _pack_tools(environment: Path, target: Path) -> None:
    """CMake's and Ninja's programs, and the modules that CMake reads, as bin/ and share/."""
    data = next(environment.glob("lib/python*/site-packages/cmake/data"), None)
    ninja = _ninja(environment)
    if data is None or ninja is None:
        raise SetupError("the build tools are not where their wheels put them")
    with tarfile.open(target, "w:xz") as packed:
        for file in _files(data):
            if is_wanted_tool(str(file.relative_to(data))):
                packed.add(file, str(file.relative_to(data)), filter=_plain)
        packed.add(ninja, "bin/ninja", filter=_plain)


def _ninja(environment: Path) -> Path | None:
    places = [*environment.glob("lib/python*/site-packages/ninja/data/bin/ninja")]
    places.append(environment / "bin" / "ninja")
    is_program = (each for each in places if each.exists() and each.read_bytes()[:4] == b"\x7fELF")
    return next(is_program, None)


def _pack(folder: Path, target: Path) -> None:
    """Equal files of different Pythons side by side, where the compressor sees them."""
    names = [str(file.relative_to(folder)) for file in _files(folder)]
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 * MB}]
    with (
        lzma.open(target, "wb", filters=filters) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as packed,
    ):
        for name in in_order(name for name in names if is_wanted_package_file(name)):
            packed.add(folder / name, name, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who made it and when, so that the same files make the same archive."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _files(folder: Path) -> Iterable[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file())


class InputFile(TypedDict):
    """One of them."""

    bytes: int
    sha256: str


class Contents(TypedDict):
    """What was collected, and what is expected on the machine that it is for."""

    llama_cpp_python: str
    pythons: list[str]
    files: dict[str, InputFile]
    expected_there: list[str]


def describe(folder: Path, version: str, pythons: Sequence[str]) -> Contents:
    """Of the inputs in a folder."""
    files = {}
    for name in NAMES:
        content = (folder / name).read_bytes()
        files[name] = InputFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Contents(
        llama_cpp_python=version, pythons=list(pythons), files=files, expected_there=list(EXPECTED)
    )
