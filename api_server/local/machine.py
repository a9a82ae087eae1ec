"""What this machine has left: memory, also inside a container's limit."""

import contextlib
import re
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Memory that may still be used without swapping or being killed."""
    return available_memory_bytes(
        _read(Path("/proc/meminfo")),
        _read(_CGROUP / "memory.max"),
        _read(_CGROUP / "memory.current"),
        _read(_CGROUP / "memory.stat"),
    )


def available_memory_bytes(meminfo: str, limit: str, used: str, stat: str) -> int:
    """The same from the texts of the four files, `""` for one that is not there. Pure.

    A container's page cache counts as used there, but its inactive part is given back on demand.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, flags=re.MULTILINE)
    available = int(found[1]) * 1024 if found else 0
    if limit.strip().isdigit() and used.strip().isdigit():
        cache = re.search(r"^inactive_file (\d+)", stat, flags=re.MULTILINE)
        reclaimable = int(cache[1]) if cache else 0
        available = min(available, int(limit) - int(used) + reclaimable)
    return available


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
