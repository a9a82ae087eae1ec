"""Numbers that one worker process writes and all workers read, in memory that they share.

The memory is made before the workers are forked and so outlives each of them: what a worker
counted stays, to the last request, when it dies by kill -9. docs/decisions/0004 has the reasons.
"""

import asyncio
import logging
import mmap
import time
from collections.abc import Iterator

import msgspec

KEY_BYTES = 512 * 1024
CELLS = 128 * 1024
"""For each worker. Memory that is never touched costs nothing; 64 models use about a fifth."""

BEAT_SECONDS = 0.5
MAX_SIZE = 64
_IS_ALIVE, _BEATS, _KEY_BYTES_USED, _CELLS_USED, _LOST = 0, 1, 2, 3, 4
_FIRST = _LOST + MAX_SIZE

log = logging.getLogger(__name__)


Key = tuple[str, ...]
"""What a run of cells means: the name of a metric, then the values of its labels."""

_LINE = msgspec.json.Decoder(tuple[Key, int, int])


class Numbers:
    """One worker's numbers. That worker alone writes them, so that no lock is needed.

    `cells` are doubles. Which of them belong to what stands in lines that only ever grow, each
    visible once it is whole: a reader and the next process to write here see no half of one.
    `began` is when counting began, in seconds since 1970; no fork changes it.
    """

    def __init__(self) -> None:
        self.began = time.time()
        memory = memoryview(mmap.mmap(-1, KEY_BYTES + CELLS * 8))
        self._lines = memory[:KEY_BYTES]
        self.cells: memoryview[float] = memory[KEY_BYTES:].cast("d")
        self.cells[_CELLS_USED] = _FIRST

    @property
    def is_alive(self) -> bool:
        """Whether a process writes here now; its gauges count only then."""
        return self.cells[_IS_ALIVE] == 1.0

    @is_alive.setter
    def is_alive(self, value: bool) -> None:
        self.cells[_IS_ALIVE] = float(value)

    @property
    def beats(self) -> float:
        """Goes up as long as the writer's event loop turns."""
        return self.cells[_BEATS]

    async def beat(self) -> None:
        """Tell whoever watches that the loop turns, until cancelled."""
        while True:
            self.cells[_BEATS] += 1
            await asyncio.sleep(BEAT_SECONDS)

    def entries(self) -> Iterator[tuple[Key, int, int]]:
        """Each key with its first cell and the count of its cells."""
        for line in bytes(self._lines[: self._used]).splitlines():
            try:
                yield _LINE.decode(line)
            except msgspec.DecodeError:  # its writer's core has not shown us all of it yet
                return

    def place(self, key: Key, size: int) -> int:
        """The first of `size` cells, all zero, for a key that has none yet."""
        first = int(self.cells[_CELLS_USED])
        line = msgspec.json.encode((key, first, size)) + b"\n"
        start, end = self._used, self._used + len(line)
        if size > MAX_SIZE or end > KEY_BYTES or first + size > CELLS:
            log.error("no room for another metric; it is not counted", extra={"metric": key[0]})
            return _LOST
        # In this order: death in between costs some cells, or leaves a line that nobody sees.
        self.cells[_CELLS_USED] = first + size
        self._lines[start:end] = line
        self.cells[_KEY_BYTES_USED] = end
        return first

    @property
    def _used(self) -> int:
        return int(self.cells[_KEY_BYTES_USED])
