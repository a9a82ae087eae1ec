"""Does jobs of one kind: as many as it has slots, and writes down what came of them.

Any number of workers share the queue. Each holds its jobs by leases, which it extends while it
lives; what it cannot extend is done by another, and its own result counts no more.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from api_server.errors import ApiError, DependencyDownError
from api_server.observability.record import RequestRecord
from api_server.services.jobs.asking import new_record
from api_server.services.jobs.gathering import Gathering
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.trouble import Failed, PutOff, outcome_of, pause_seconds
from api_server.stores.jobs import End, JobStore, Taken

LOOK_SECONDS = 1.0
"""How often the queue is looked at without being told of anything, and our leases too."""

BEAT_SECONDS = 1.0
NEWEST = 0.1
"""The weight of the newest job in the mean of what jobs take."""

Observe = Callable[[float, float], None]
Held = tuple[str, int]
"""A job and its fence: after a silence the same worker may hold one job twice for a moment."""

log = logging.getLogger(__name__)


class Doer(Protocol):
    """Does the jobs of a kind. `route` is what their log lines and figures name."""

    route: str

    async def do(self, job: Taken, record: RequestRecord) -> str | None:
        """Do one; returns its `response` as JSON, if it has any. May be cancelled, and called again
        for the same job: whoever lost a job holds an old fence.

        Raises `ApiError`: some put the job off (`trouble.outcome_of`), others end it.
        """


def new_name() -> str:
    """Of a worker; nobody else has it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Worker:
    """`slots` jobs at the same time. `ended` gets the record of every job that came to its end;
    `observe` gets how long it waited and ran, in seconds.
    """

    def __init__(
        self,
        store: JobStore,
        doer: Doer,
        rules: Rules,
        slots: int,
        *,
        ended: Callable[[RequestRecord], None],
        observe: Observe,
    ) -> None:
        self.name = new_name()
        self.slots = slots
        self._store = store
        self._doer = doer
        self._rules = rules
        self._ended = ended
        self._observe = observe
        self._running: dict[Held, asyncio.Task[None]] = {}
        self._lost: set[Held] = set()
        self._ending: set[Held] = set()
        self._wake = asyncio.Event()
        self._mean_seconds: float | None = None
        self._pauses: dict[tuple[str, str], tuple[float, int]] = {}
        self._finishing: Gathering[End, bool] = Gathering(self._finish)

    def wake(self) -> None:
        """There is something in the queue."""
        self._wake.set()

    def stop_job(self, job_id: str) -> None:
        """A job is ours no more: it was cancelled, or is too late. The engine's work ends."""
        for held in [held for held in self._running if held[0] == job_id]:
            self._let_go(held)

    async def run(self) -> None:
        """Until it is cancelled; then what runs goes on until `drain`."""
        keeping = asyncio.create_task(self._keep_leases())
        try:
            while True:
                self._wake.clear()
                await self._take_some()
                await self._something_new()
        finally:
            await _ended(keeping)

    async def drain(self, seconds: float) -> None:
        """Let what runs come to its end within that time; give back the rest."""
        if not self._running:
            await self._leave()
            return
        keeping = asyncio.create_task(self._keep_leases())
        try:
            await asyncio.wait(set(self._running.values()), timeout=seconds)
            rest = set(self._running.values())
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest, timeout=3.0)
            await self._finishing.aclose()
        finally:
            await _ended(keeping)
        await self._leave()

    # inside

    async def _leave(self) -> None:
        try:
            await self._store.leave(self.name)
        except DependencyDownError:
            return  # it is seen as gone after ten seconds

    async def _take_some(self) -> None:
        """Take what there is for the free slots."""
        free = self.slots - len(self._running)
        if free <= 0 or self._is_paused("all", ""):
            return
        try:
            taken = await self._store.claim(
                self.name,
                free,
                lease_seconds=self._rules.lease_seconds,
                timeout_seconds=self._rules.timeout_seconds,
                max_attempts=self._rules.max_attempts,
                without_models=self._paused("model"),
                without_apps=self._paused("app"),
            )
        except DependencyDownError:
            return
        except Exception:  # the top of a background loop
            log.exception("no job could be taken")
            return
        for job in taken:
            task = asyncio.create_task(self._do(job))
            self._running[job.id, job.fence] = task

    async def _something_new(self) -> None:
        """Wait to be told of new jobs or of a free slot, but not for long."""
        waiting = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
        finally:
            waiting.cancel()

    async def _do(self, job: Taken) -> None:
        began, held = time.monotonic(), (job.id, job.fence)
        try:
            end = await self._outcome(job)
            self._ending.add(held)
            if end is not None and await self._finishing.put(end):
                self._observe(job.waited_seconds, time.monotonic() - began)
                if end.state == "completed":
                    self._learn(time.monotonic() - began)
        except Exception:  # the top of this task: its lease ends, and another worker tries
            log.exception("a job could not be ended")
        finally:
            self._lost.discard(held)
            self._ending.discard(held)
            was_full = len(self._running) >= self.slots
            del self._running[held]
            if was_full:  # else there was nothing to take
                self._wake.set()

    async def _outcome(self, job: Taken) -> End | None:
        """What came of a job; None where it is ours no more, or was put off."""
        record = new_record(job, self._doer.route)
        try:
            async with asyncio.timeout(max(0.01, job.seconds_left)):
                response = await self._doer.do(job, record)
        except asyncio.CancelledError:
            if (job.id, job.fence) not in self._lost:
                await self._put_off(job, 0.0)  # we are going down
            record.fail("error", "cancelled", "the job was stopped", logging.INFO)
            self._ended(record)
            return None
        except TimeoutError:
            seconds = self._rules.timeout_seconds
            error = f"The request took longer than the {seconds:g} s it may."
            return self._failure(job, record, Failed("TIMEOUT", retry_possible=True), error)
        except ApiError as exc:
            outcome = outcome_of(exc)
            if isinstance(outcome, PutOff):
                await self._wait_for_better_times(job, outcome)
                return None
            record.status = exc.status
            return self._failure(job, record, outcome, exc.message, exc.code)
        except Exception:  # a defect of ours ends the job, not the worker
            log.exception("a job failed", extra={"request_id": record.request_id})
            failed = Failed("AI_SERVICE_ERROR", retry_possible=True)
            return self._failure(job, record, failed, "The server failed at this request.")
        record.status = 200
        for name in (("model", job.model), ("app", job.app_id), ("all", "")):
            self._pauses.pop(name, None)
        self._ended(record)
        return End(job.id, job.fence, "completed", response=response)

    def _failure(
        self,
        job: Taken,
        record: RequestRecord,
        failed: Failed,
        message: str,
        code: str = "engine_timeout",
    ) -> End:
        record.status = record.status or 504
        record.fail("error", code, message, logging.INFO)
        self._ended(record)
        message = message.replace("\0", "")[:2000]
        return End(*(job.id, job.fence, "error", failed.error_code, message, failed.retry_possible))

    async def _wait_for_better_times(self, job: Taken, outcome: PutOff) -> None:
        name = {"model": job.model, "app": job.app_id, "all": ""}[outcome.because_of]
        seconds = self._pause(outcome, name)
        await self._put_off(job, seconds)

    async def _put_off(self, job: Taken, seconds: float) -> None:
        try:
            await self._store.put_off(job.id, job.fence, seconds)
        except DependencyDownError:
            return  # its lease ends by itself

    async def _finish(self, ends: list[End]) -> Sequence[bool]:
        """Write ends down, however long PostgreSQL is away; other workers may be faster then."""
        deadline = time.monotonic() + self._rules.timeout_seconds
        while True:
            try:
                done = await self._store.finish(ends)
                return [end.id in done for end in ends]
            except DependencyDownError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(LOOK_SECONDS / 2)

    async def _keep_leases(self) -> None:
        """Extend what is ours, let go what is not, and say that we live."""
        beaten = renewed = 0.0
        while True:
            now = time.monotonic()
            held = list(self._running)
            try:
                if now - beaten >= BEAT_SECONDS:
                    beaten = now
                    await self._store.beat(self.name, self.slots, len(held), self._mean_seconds)
                if held and now - renewed >= self._rules.lease_seconds / 3:
                    await self._store.renew(held, self._rules.lease_seconds)
                    renewed = now
                if held:
                    ours = await self._store.still_held(held)
                    for lost in [each for each in held if each not in ours]:
                        self._let_go(lost)
            except DependencyDownError:
                log.debug("the leases of jobs cannot be extended now")
            except Exception:  # the top of a background loop
                log.exception("the leases of jobs could not be extended")
            await asyncio.sleep(min(LOOK_SECONDS, self._rules.lease_seconds / 3))

    def _let_go(self, held: Held) -> None:
        task = self._running.get(held)
        if task is not None and held not in self._ending:
            self._lost.add(held)
            task.cancel()

    def _learn(self, seconds: float) -> None:
        old = self._mean_seconds
        self._mean_seconds = seconds if old is None else old + NEWEST * (seconds - old)

    def _pause(self, outcome: PutOff, name: str) -> float:
        now, at_least, kind = time.monotonic(), outcome.at_least_seconds, outcome.because_of
        until, tries = self._pauses.get((kind, name), (0.0, 0))
        if until > now:  # others of the same batch said so already
            return max(until - now, at_least)
        if not outcome.is_trouble:
            tries = 0
        seconds = pause_seconds(tries if name else 0, at_least)
        self._pauses[kind, name] = (now + seconds, tries + outcome.is_trouble)
        return seconds

    def _paused(self, kind: str) -> list[str]:
        now = time.monotonic()
        pauses = self._pauses.items()
        return [name for (each, name), (until, _) in pauses if each == kind and until > now]

    def _is_paused(self, kind: str, name: str) -> bool:
        return self._pauses.get((kind, name), (0.0, 0))[0] > time.monotonic()


async def _ended(keeping: "asyncio.Task[None]") -> None:
    """Cancelled, and over: a beat on its way would say that a worker lives which has left."""
    keeping.cancel()
    await asyncio.wait({keeping}, timeout=LOOK_SECONDS)
