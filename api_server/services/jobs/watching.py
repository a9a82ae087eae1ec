"""Tells those who watch a job of each change; one question to the database for all of them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from api_server.errors import DependencyDownError, OverloadedError
from api_server.services.jobs.answers import FINAL
from api_server.stores.jobs import Job

LOOK_SECONDS = 0.5
MOST_OF_ONE_JOB = 16
"""Whoever knows one id must not take the places of all others."""

PAUSE_PER_JOB_SECONDS = 0.002
"""So that a thousand of them take no more than a part of PostgreSQL's time."""

Find = Callable[[Sequence[str]], Awaitable[Mapping[str, Job]]]

log = logging.getLogger(__name__)


class Watcher:
    """One who watches. Keeps the newest change only: who reads slowly misses those between."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._seen: Job | None = None
        self._newest: Job | None = None
        self._is_gone = False
        self._changed = asyncio.Event()

    async def next_change(self) -> Job | None:
        """Wait for the next change; None where the job is there no more."""
        await self._changed.wait()
        self._changed.clear()
        return None if self._is_gone else self._newest

    def tell(self, job: Job | None) -> None:
        """What is known now. Says nothing of it where it is nothing new."""
        if job is None:
            self._is_gone = True
        elif self._seen is not None and (job.state, job.position) == (
            self._seen.state,
            self._seen.position,
        ):
            return
        self._seen = self._newest = job
        self._changed.set()


class Watching:
    """All watchers of a process, no more than `most`."""

    def __init__(self, find: Find, most: int) -> None:
        self._find = find
        self._most = most
        self._watchers: set[Watcher] = set()
        self._wake = asyncio.Event()

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[Watcher]:
        """Raises `OverloadedError` when there are too many, of all jobs or of this one."""
        of_this = sum(watcher.job_id == job_id for watcher in self._watchers)
        if len(self._watchers) >= self._most or of_this >= MOST_OF_ONE_JOB:
            raise OverloadedError("Too many requests are watched now.", retry_after_seconds=5)
        watcher = Watcher(job_id)
        self._watchers.add(watcher)
        self._wake.set()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            waiting = asyncio.create_task(self._wake.wait())
            try:
                await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
            finally:
                waiting.cancel()
            self._wake.clear()
            if not self._watchers:
                continue
            try:
                await self._look()
            except DependencyDownError:
                log.debug("those who watch jobs are told nothing now")
            except Exception:  # the top of a background loop
                log.exception("those who watch jobs could not be told")
            await asyncio.sleep(0.05 + PAUSE_PER_JOB_SECONDS * len(self._watchers))

    async def _look(self) -> None:
        watchers = list(self._watchers)
        jobs = await self._find(sorted({watcher.job_id for watcher in watchers}))
        for watcher in watchers:
            watcher.tell(jobs.get(watcher.job_id))


def is_final(job: Job) -> bool:
    """Whether nothing will change any more, unless somebody begins it again."""
    return job.state in FINAL
