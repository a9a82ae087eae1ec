"""The NVIDIA GPUs of this machine, as nvidia-smi tells them."""

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from api_server.errors import SetupError

FIELDS = ("name", "memory.total", "memory.used", "driver_version", "compute_cap", "power.draw")
SECONDS = 20.0


@dataclass(frozen=True)
class Gpu:
    """One of them. Memory in MiB; `capability` such as 9.0; power in watts if it tells."""

    name: str
    memory_mib: int
    used_mib: int
    driver: str
    capability: str
    watts: float | None = None


def look_at_gpus() -> list[Gpu]:
    """Those there are now. Raises SetupError when there are none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise SetupError(f"nvidia-smi does not tell of a GPU ({exc}): use --device cpu") from exc
    gpus = parse_gpus(said.stdout)
    if not gpus:
        raise SetupError("nvidia-smi lists no GPU: use --device cpu")
    return gpus


def parse_gpus(text: str) -> list[Gpu]:
    """The lines of nvidia-smi. Raises SetupError for what is none."""
    try:
        return [_gpu([cell.strip() for cell in row]) for row in csv.reader(text.splitlines())]
    except ValueError as exc:
        raise SetupError(f"nvidia-smi says what cannot be understood: {text[:200]!r}") from exc


def _gpu(cells: Sequence[str]) -> Gpu:
    name, total, used, driver, capability, power = cells
    watts = float(power) if power.replace(".", "", 1).isdigit() else None
    return Gpu(name, int(total), int(used), driver, capability, watts)


def architectures(gpus: Sequence[Gpu]) -> str:
    """CMAKE_CUDA_ARCHITECTURES: machine code for these GPUs and no others, which saves minutes."""
    found = {gpu.capability.replace(".", "") for gpu in gpus}
    return ";".join(f"{each}-real" for each in sorted(found, key=int))
