"""Brings the database's tables up to date while the gateway starts, and after an outage."""

import asyncio
import logging

from api_server.errors import SetupError
from api_server.stores.migrations import migrate, migrations

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0

log = logging.getLogger(__name__)


class Schema:
    """Each process of a gateway has one; the database's lock lets one at a time change it.

    That PostgreSQL is away is no reason not to start: chats need no tables.
    """

    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url
        self._task: asyncio.Task[None] | None = None
        self.version: int | None = None
        """Of the newest migration that is known to be applied; None as long as none is."""
        self.is_current = asyncio.Event()

    async def start(self, wait_seconds: float = 5.0) -> None:
        """Begin, and wait that long at most."""
        self._task = asyncio.create_task(self._until_done())
        await asyncio.wait({self._task}, timeout=wait_seconds)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1.0)

    async def _until_done(self) -> None:
        pause_seconds, told = FIRST_PAUSE_SECONDS, ""
        while True:
            try:
                await migrate(self._url)
                break
            except SetupError as exc:
                if str(exc) != told:  # the same sentence once
                    told = str(exc)
                    log.warning("the database is not up to date", extra={"reason": told})
            except Exception:  # the top of a background task
                log.exception("the migrations failed")
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
        self.version = len(migrations())
        self.is_current.set()
