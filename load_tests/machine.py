"""What the load came from: hardware, and versions of the programs."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from load_tests.results import Hardware

GPU_SECONDS = 10


def hardware() -> Hardware:
    """Of this machine, as far as it tells."""
    return Hardware(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=_gpu(),
        system=platform.platform(),
    )


def versions(gateway: str | None, engine: str | None) -> dict[str, str]:
    """Of what took part; unknown ones are left out."""
    known = {
        "python": platform.python_version(),
        "locust": version("locust"),
        "gevent": version("gevent"),
        "gateway": gateway,
        "engine": engine,
    }
    return {name: value for name, value in known.items() if value}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name, memory and driver of each NVIDIA GPU."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=GPU_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(said.stdout.splitlines()) or None
