"""Threads for calls of synchronous drivers: so many and no more, and nobody else's.

They are daemons: one that hangs keeps no process from ending.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from api_server.errors import DependencyDownError

T = TypeVar("T")

TURN_SECONDS = 2.0
"""A call waits so long for a thread. With all of them at work no service is to be had anyway."""


class OwnThreads:
    """At most `count` calls at once; a call that was given up keeps its thread until it ends."""

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(count)

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. `DependencyDownError` where no thread becomes free."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as exc:
            raise DependencyDownError(self._name, retry_after_seconds=TURN_SECONDS) from exc
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def end(result: T | None, error: BaseException | None) -> None:
            self._free.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as exc:  # noqa: BLE001 - told to whoever waits
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody waits
                loop.call_soon_threadsafe(end, result, error)

        threading.Thread(target=work, daemon=True, name=self._name).start()
        return await answer
