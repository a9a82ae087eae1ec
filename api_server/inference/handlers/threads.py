"""From threads to the event loop: where a library that blocks writes, and how it is ended."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

ROOM = 64
"""How many pieces may lie unread before the thread that makes them has to wait."""


class Outlet:
    """What a working thread has of the event loop: a place for text, and whether anybody reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int = ROOM) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = loop
        self._room = threading.Semaphore(room)
        self._is_closed = False
        self._on_close: Callable[[], None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether the work is to end. Threads ask between two tokens, or more often."""
        return self._is_closed

    def on_close(self, act: Callable[[], None]) -> None:
        """From the thread: what is to be called when the reader goes, in the reader's thread."""
        self._on_close = act
        if self._is_closed:
            act()

    def put(self, piece: str) -> None:
        """From the thread: hand a piece over. Waits while too many lie unread, until `close`."""
        if not piece or self._is_closed:
            return
        self._room.acquire()  # without a time-out: whoever reads calls `taken` or `close`
        if not self._is_closed:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and the reader with it
                self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    def taken(self) -> None:
        """From the loop: one piece was read."""
        self._room.release()

    def close(self) -> None:
        """From the loop: nobody reads any more."""
        self._is_closed = True
        self._room.release()
        if self._on_close is not None:
            self._on_close()


class Threads(Generic[T]):
    """The threads in which one loaded model works, at most `count` at the same time.

    A request without a thread waits in the event loop, first come, first served. A thread counts as
    taken until its work has really ended, however long ago its reader went.
    """

    def __init__(self, count: int, name: str) -> None:
        self._free = asyncio.Semaphore(count)
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._running: set[asyncio.Future[T]] = set()

    @property
    def running(self) -> int:
        """How many threads work now."""
        return len(self._running)

    async def stream(self, work: Callable[[Outlet], T]) -> AsyncGenerator[str | T, None]:
        """The pieces that `work` puts, then what it returns; it runs in a thread.

        Raises what it raises. Closing the generator closes the outlet and does not wait.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        outlet = Outlet(loop)
        try:
            future = loop.run_in_executor(self._executor, work, outlet)
        except BaseException:
            self._free.release()
            raise
        self._running.add(future)
        future.add_done_callback(self._ended)
        future.add_done_callback(lambda _: outlet.pieces.put_nowait(None))
        try:
            while (piece := await outlet.pieces.get()) is not None:
                outlet.taken()
                yield piece
            yield future.result()
        finally:
            outlet.close()

    async def aclose(self, seconds: float) -> bool:
        """Wait for what still runs; whether all of it has ended by then."""
        running = set(self._running)
        if running:
            await asyncio.wait(running, timeout=seconds)
        self._executor.shutdown(wait=False)
        return not self._running

    def _ended(self, future: "asyncio.Future[T]") -> None:
        self._running.discard(future)
        self._free.release()
        if not future.cancelled():
            future.exception()  # heard, even if the reader has gone
