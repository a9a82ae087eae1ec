"""Memory: what this machine has left, also inside a container's limit, and who has to make room."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from api_server.errors import ResourceNotAvailableError

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


MIB = 1024 * 1024


def who_makes_room(
    model_id: str, needed_bytes: int, free_bytes: int, idle: Sequence[tuple[str, int]]
) -> list[str]:
    """Which of the idle models have to go, in their order, for one that needs so much. Pure.

    `idle` are ids with what each gives back. Raises `ResourceNotAvailableError` with both numbers
    where all of them together are not enough: then none should go.
    """
    going: list[str] = []
    free = free_bytes
    for other_id, gives_back in idle:
        if free >= needed_bytes:
            break
        going.append(other_id)
        free += gives_back
    if free < needed_bytes:
        also = f", {free // MIB} MiB without the models that are idle" if going else ""
        raise ResourceNotAvailableError(
            f"'{model_id}' needs about {-(-needed_bytes // MIB)} MiB of memory, and "
            f"{max(0, free_bytes) // MIB} MiB are free{also}. Unload another model, or take a "
            "smaller one."
        )
    return going


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
