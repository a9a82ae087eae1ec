"""How a process does: looked at twice a second, beside the requests and never by one of them."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from api_server.observability.metrics import Metrics

LOOK_SECONDS = 0.5
DISK_SECONDS = 10.0
_STATM = Path("/proc/self/statm")


class Vitals:
    """`look` is called with each look: it tells the metrics what only others can see."""

    def __init__(self, metrics: Metrics, data_dir: Path, look: Callable[[], None]) -> None:
        self._metrics = metrics
        self._data_dir = data_dir
        self._look = look

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._metrics.process(max(0.0, loop.time() - due), resident_bytes())
            self._look()

    async def watch_disk(self) -> None:
        """Until cancelled. In a thread, as the disk of a network may hang."""
        while True:
            with contextlib.suppress(OSError):  # nothing is there yet, or no more
                free, size = await asyncio.to_thread(disk_bytes, self._data_dir)
                self._metrics.disk(free, size)
            await asyncio.sleep(DISK_SECONDS)


def resident_bytes() -> int | None:
    """Of this process; None where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def disk_bytes(folder: Path) -> tuple[int, int]:
    """What is free for us on a folder's disk, and how large that is. Raises `OSError`."""
    figures = os.statvfs(folder)
    return figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize
