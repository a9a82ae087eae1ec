"""Decides what of a package travels to a machine without a network. Pure."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from api_server.local.engine_recipe import SOURCE_FOLDER, is_wanted_member

LARGEST_BYTES = 54 * 1024 * 1024
"""Of all inputs: with this checkout beside them they stay below 64 MiB."""

_OTHER_BACKENDS = (
    *("blas", "cann", "et", "hexagon", "hip", "metal", "musa", "opencl", "openvino", "rpc"),
    *("sycl", "virtgpu", "vulkan", "webgpu", "zdnn", "zendnn"),
)
_SOURCE_TOPS = frozenset(
    ("app", "cmake", "common", "ggml", "include", "licenses", "src", "tools", "vendor")
)
_LEFT_OUT = (
    *(f"ggml/src/ggml-{backend}/" for backend in _OTHER_BACKENDS),
    *(f"tools/ui/{folder}/" for folder in (".storybook", "scripts", "src", "static", "tests")),
    *("tools/ui/package-lock.json", "tools/server/tests/", "tools/server/bench/"),
)
_GLIBC_MINORS = (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)


def is_wanted_source(name: str) -> bool:
    """Whether a plain file of the source package is needed to compile llama-server."""
    if not is_wanted_member(name, is_plain=True):
        return False
    inside = PurePosixPath(*PurePosixPath(name).parts[1:]).relative_to(SOURCE_FOLDER)
    if len(inside.parts) == 1:
        return inside.name in ("CMakeLists.txt", "LICENSE", "AUTHORS")
    if inside.parts[0] == "scripts":
        return inside.suffix == ".cmake"
    return inside.parts[0] in _SOURCE_TOPS and not str(inside).startswith(_LEFT_OUT)


def is_wanted_tool(name: str) -> bool:
    """Of CMake's wheel: its program and the modules that a project includes; no documents."""
    path = PurePosixPath(name)
    if path.parts[0] == "bin":
        return path.name == "cmake"
    parts = path.parts
    return parts[0] == "share" and len(parts) > 2 and parts[2] in ("Modules", "Templates")


def is_wanted_package_file(name: str) -> bool:
    """No tests, sources, or programs: what is imported, and what those read."""
    path = PurePosixPath(name)
    if path.suffix in (".c", ".cpp", ".h", ".hpp", ".pyx", ".pxd", ".pyi", ".pyc"):
        return False
    return "tests" not in path.parts and path.parts[1] != "bin"


def in_order(names: Iterable[str]) -> list[str]:
    """By path without the first folder, so that equal files of different folders are neighbours."""
    return sorted(names, key=lambda name: (name.partition("/")[2], name))


def pip_platforms() -> list[str]:
    """What pip must be told, since it matches each of them exactly."""
    return [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC_MINORS] + [
        "manylinux2014_x86_64",
        "manylinux1_x86_64",
    ]
