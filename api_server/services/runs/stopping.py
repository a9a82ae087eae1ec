"""Stops what a leg waits for as soon as somebody wants its run cancelled; how runs stop early."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from api_server.services.runs.endings import Ending

STOP_SECONDS = 3.0


class StoppedError(Exception):
    """Somebody wants the run cancelled."""


class FailedError(Exception):
    """The run cannot go on: how it ends."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.status)
        self.ending = ending


class Stop:
    """Of one leg. `want` may be called at any time."""

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._inner: asyncio.Task[Any] | None = None

    def want(self) -> None:
        """What is under way ends at once."""
        self._is_wanted = True
        if self._inner is not None:
            self._inner.cancel()

    def check(self) -> None:
        """Raises `StoppedError`."""
        if self._is_wanted:
            raise StoppedError

    async def unless(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this; raises `StoppedError` as soon as somebody wants the run cancelled."""
        if self._is_wanted:
            work.close()
            raise StoppedError
        inner = self._inner = asyncio.create_task(work)
        try:
            await asyncio.wait({inner})
        except asyncio.CancelledError:
            inner.cancel()
            await asyncio.wait({inner}, timeout=STOP_SECONDS)
            raise
        finally:
            self._inner = None
        if inner.cancelled():
            raise StoppedError
        inner.result()
