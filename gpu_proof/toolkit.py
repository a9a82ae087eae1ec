"""Finds CUDA's compiler and libraries, where a toolkit lies or where Python wheels put them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError

USUAL = Path("/usr/local/cuda/bin/nvcc")
LIBRARIES = ("cudart", "cublas", "cublasLt", "cuda")
"""What llama.cpp links; the last is the driver's own."""

_DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
_TARGET = "targets/x86_64-linux"
SECONDS = 30.0


@dataclass(frozen=True)
class Toolkit:
    """nvcc: the compiler; version: such as 13.0; include: folders that it does not know itself."""

    nvcc: Path
    version: str
    include: tuple[Path, ...]
    libraries: dict[str, Path]


def find_toolkit(site_folders: Iterable[str] | None = None) -> Toolkit:
    """Raises SetupError that says what is missing. site_folders: else those of this Python."""
    found = shutil.which("nvcc")
    nvcc = Path(found) if found else USUAL
    if not nvcc.exists():
        raise SetupError(
            "CUDA's compiler was not found: neither nvcc on PATH nor /usr/local/cuda/bin/nvcc. "
            "Install the CUDA toolkit, or run the proof on the CPU with --device cpu"
        )
    version = parse_release(_version_text(nvcc))
    root = nvcc.resolve().parent.parent
    wheels = wheel_folders(sys.path if site_folders is None else site_folders)
    libraries = find_libraries(library_folders(root, wheels))
    if missing := [name for name in LIBRARIES if name not in libraries]:
        raise SetupError(
            f"{nvcc} is there, but not {', '.join(f'lib{name}.so' for name in missing)}: install "
            "the whole CUDA toolkit and the driver"
        )
    own = (root / "include", root / _TARGET / "include")
    include: tuple[Path, ...] = ()
    if not any((folder / "cublas_v2.h").exists() for folder in own):
        include = tuple(each / "include" for each in wheels if (each / "include").is_dir())
    return Toolkit(nvcc, version, include, libraries)


def _version_text(nvcc: Path) -> str:
    command = [str(nvcc), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise SetupError(f"{nvcc} does not run: {exc}") from exc
    return said.stdout


def parse_release(text: str) -> str:
    """The version in what `nvcc --version` says. Raises SetupError."""
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise SetupError(f"nvcc does not tell its version: {text[:200]!r}")
    return found[1]


def wheel_folders(folders: Iterable[str]) -> list[Path]:
    """Where NVIDIA's wheels lie in these folders of packages: nvidia/cu13, nvidia/cublas, ..."""
    tops = [Path(folder or ".") / "nvidia" for folder in folders]
    return [each for top in tops if top.is_dir() for each in sorted(top.iterdir()) if each.is_dir()]


def library_folders(root: Path, wheels: Sequence[Path]) -> list[Path]:
    """Where to look, the driver's folders first: a stub of libcuda is only for linking."""
    own = [root / "lib64", root / "lib", root / _TARGET / "lib"]
    stubs = [folder / "stubs" for folder in own]
    driver = [Path(folder) for folder in _DRIVER_FOLDERS]
    return [*own, *driver, *(wheel / "lib" for wheel in wheels), *stubs]


def find_libraries(folders: Iterable[Path]) -> dict[str, Path]:
    """By name the first file found, with its version if there is none without."""
    found: dict[str, Path] = {}
    for folder in folders:
        for name in LIBRARIES:
            files = [folder / f"lib{name}.so", *sorted(folder.glob(f"lib{name}.so.*"))]
            there = [file for file in files if file.exists()]
            if there and name not in found:
                found[name] = there[0]
    return found


def link_libraries(libraries: dict[str, Path], folder: Path) -> None:
    """One folder with each library under its plain name, for the linker, and its own, to run.

    Wheels and drivers have only names with versions, which no linker looks for.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, file in libraries.items():
        for link in {f"lib{name}.so", *_names(file)}:
            (folder / link).symlink_to(file.absolute())


def _names(file: Path) -> set[str]:
    """What the loader may ask for: the names that lead to the same file beside it."""
    same = file.resolve()
    return {each.name for each in file.parent.glob(f"{file.name}*") if each.resolve() == same}
