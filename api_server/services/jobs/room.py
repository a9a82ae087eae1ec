"""Everything of jobs that runs in a process: the worker, the housekeeping, who listens for news."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from api_server.errors import DependencyDownError
from api_server.inference.catalogue import Catalogue
from api_server.observability.metrics import Metrics
from api_server.observability.record import RequestRecord
from api_server.services.jobs.asking import ChatJobs, Chats
from api_server.services.jobs.owners import Owners
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.service import Admit, JobService, admit_all
from api_server.services.jobs.tally import Tally
from api_server.services.jobs.watching import Watching
from api_server.services.jobs.worker import Worker
from api_server.stores.jobs import CHANNEL, Counts, JobStore
from api_server.stores.postgres import Postgres

KEEP_SECONDS = 1.0
LISTEN_AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


Loop = Callable[[], Awaitable[None]]
"""Goes on until it is cancelled, and starts nothing that outlives it."""

Heard = Callable[[str], None]
"""Gets what came after the first word."""


@dataclass(frozen=True)
class Besides:
    """What other kinds of work than chats add to a process's room."""

    workers: Sequence[Worker] = ()
    loops: Sequence[Loop] = ()
    heard: Mapping[str, Heard] = field(default_factory=dict)


NOTHING_ELSE = Besides()


def together(*parts: Besides) -> Besides:
    """What several kinds of work add."""
    return Besides(
        [worker for part in parts for worker in part.workers],
        [loop for part in parts for loop in part.loops],
        {word: heard for part in parts for word, heard in part.heard.items()},
    )


class JobRoom:
    """`workers`: of each kind that this process does; without one of a kind, it only accepts.

    `loops` run as long as the room does; `heard` gets what is told on the channel of jobs, by its
    first word.
    """

    def __init__(
        self,
        store: JobStore,
        rules: Rules,
        tally: Tally,
        watching: Watching,
        workers: Sequence[Worker],
        loops: Sequence[Loop] = (),
        heard: Mapping[str, Heard] = MappingProxyType({}),
    ) -> None:
        self.tally = tally
        self.watching = watching
        self.workers = workers
        self._loops = loops
        self._callbacks = heard
        self._store = store
        self._rules = rules
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; connects to nothing before PostgreSQL answers."""
        loops = [self._keep, self._hear, self.watching.run, *self._loops]
        loops += [worker.run for worker in self.workers]
        self._tasks = [asyncio.ensure_future(loop()) for loop in loops]

    def begin_drain(self, seconds: float) -> None:
        """Take no more jobs; what runs may come to its end within that time. Once is enough."""
        if self._tasks and self._draining is None:
            self._draining = asyncio.create_task(self._drain(seconds))

    async def aclose(self) -> None:
        """Wait for the drain, which begins now and ends at once if it has not begun yet."""
        self.begin_drain(0.0)
        if self._draining is not None:
            await self._draining

    async def _drain(self, seconds: float) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=2.0)
        drains = (worker.drain(seconds) for worker in self.workers)
        for failed in await asyncio.gather(*drains, return_exceptions=True):
            if isinstance(failed, BaseException):  # the edge: the others have drained all the same
                log.error("a worker did not drain", exc_info=failed)

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
        if what in self._callbacks:
            self._callbacks[what](job_id)
            return
        for worker in self.workers:
            if what == "stop":
                worker.stop_job(job_id)
            if what == "new":
                worker.wake()
        self.watching.wake()


@dataclass(frozen=True)
class Jobs:
    """What routes ask, and what runs beside."""

    service: JobService
    room: JobRoom

    async def aclose(self) -> None:
        await self.room.aclose()
        await self.service.aclose()


def furnish(
    postgres: Postgres,
    catalogue: Catalogue,
    chats: Chats,
    owners: Owners,
    rules: Rules,
    metrics: Metrics,
    *,
    slots: int,
    counts_for_metrics: bool,
    ended: Callable[[RequestRecord], None],
    admit: Admit = admit_all,
    besides: Besides = NOTHING_ELSE,
) -> Jobs:
    """Everything of jobs for one process; `slots` 0: it does no chats itself.

    `besides` is what other kinds of work add to the room.
    """

    def notice(counts: Counts) -> None:
        metrics.jobs(counts.queued, counts.processing, counts.oldest_seconds or 0.0)

    store = JobStore(postgres)
    tally = Tally(notice if counts_for_metrics else None)
    workers = list(besides.workers)
    if slots:
        doer = ChatJobs(chats)
        workers.append(Worker(store, doer, rules, slots, ended=ended, observe=metrics.job_done))
    watching = Watching(store.find, rules.most_sockets)
    service = JobService(store, catalogue, owners, tally, rules, admit)
    room = JobRoom(store, rules, tally, watching, workers, besides.loops, besides.heard)
    return Jobs(service, room)
