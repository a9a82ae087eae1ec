"""Everything of jobs that runs in a process: the worker, the housekeeping, who listens for news."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from api_server.errors import DependencyDownError
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.tally import Tally
from api_server.services.jobs.watching import Watching
from api_server.services.jobs.worker import Worker
from api_server.stores.jobs import CHANNEL, JobStore

KEEP_SECONDS = 1.0
LISTEN_AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


class JobRoom:
    """`worker` None: this process does no jobs, it only accepts them."""

    def __init__(
        self,
        store: JobStore,
        rules: Rules,
        tally: Tally,
        watching: Watching,
        worker: Worker | None,
    ) -> None:
        self.tally = tally
        self.watching = watching
        self.worker = worker
        self._store = store
        self._rules = rules
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; connects to nothing before PostgreSQL answers."""
        loops: list[Callable[[], Awaitable[None]]] = [self._keep, self._hear, self.watching.run]
        if self.worker is not None:
            loops.append(self.worker.run)
        self._tasks = [asyncio.ensure_future(loop()) for loop in loops]

    async def aclose(self, drain_seconds: float) -> None:
        """Take no more jobs, let those that run come to their end, give back the rest."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        if self.worker is not None and self._tasks:
            await self.worker.drain(drain_seconds)
        self._tasks = []

    async def _keep(self) -> None:
        """Counts for all who ask; what is late ends, what is old goes."""
        while True:
            try:
                await self._store.keep(
                    max_attempts=self._rules.max_attempts,
                    retention_seconds=self._rules.retention_seconds,
                )
                self.tally.update(await self._store.counts())
            except DependencyDownError:
                self.tally.update(None)
            except Exception:  # the top of a background loop
                log.exception("the housekeeping of jobs failed")
            await asyncio.sleep(KEEP_SECONDS)

    async def _hear(self) -> None:
        """Whatever is not heard is seen a second later."""
        while True:
            with contextlib.suppress(Exception):  # the top of a background loop: it is asked too
                await self._store.postgres.listen(CHANNEL, self._heard)
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    def _heard(self, told: str) -> None:
        what, _, job_id = told.partition(" ")
        if what == "stop" and self.worker is not None:
            self.worker.stop_job(job_id)
        if what == "new" and self.worker is not None:
            self.worker.wake()
        self.watching.wake()
