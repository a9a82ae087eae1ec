"""Group commit: what comes together goes to the database together, and is answered after it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from api_server.errors import DependencyDownError, OverloadedError, StackError

T = TypeVar("T")
R = TypeVar("R")

MOST_AT_ONCE = 500
MOST_WAITING = 20_000


class Gathering(Generic[T, R]):
    """One write at a time; whoever comes meanwhile shares the next one. No timer: alone, nobody
    waits.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[Sequence[R]]],
        size_of: Callable[[T], int] = lambda _: 1,
    ) -> None:
        self._write = write
        self._size_of = size_of
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: T) -> R:
        """Write it with others; returns what became of it, raises what the write raised."""
        if len(self._waiting) >= MOST_WAITING:
            raise OverloadedError("Too much comes in at once.", retry_after_seconds=1)
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await done

    async def aclose(self) -> None:
        """Write what waits; nothing may be put in afterwards."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=10)

    async def _write_all(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            if not await self._write_batch(batch, is_last_try=len(batch) == 1):
                for each in batch:
                    await self._write_batch([each], is_last_try=True)

    async def _write_batch(
        self, batch: list[tuple[T, asyncio.Future[R]]], *, is_last_try: bool
    ) -> bool:
        """False where one of them may have spoilt it for the others: nothing was written."""
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as exc:  # noqa: BLE001 - those who wait get it
            if not is_last_try and not isinstance(exc, StackError):
                return False
            refused = list(batch)
            if isinstance(exc, DependencyDownError):  # the others have waited long enough as well
                refused += self._waiting
                self._waiting.clear()
            for _, done in refused:
                if not done.done():
                    done.set_exception(exc)
        else:
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)
        return True

    def _next_batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch = [self._waiting.popleft()]
        size = self._size_of(batch[0][0])
        while self._waiting and size + self._size_of(self._waiting[0][0]) <= MOST_AT_ONCE:
            batch.append(self._waiting.popleft())
            size += self._size_of(batch[-1][0])
        return batch
