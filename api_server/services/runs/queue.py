"""Puts legs of runs into the queue of jobs: the beginning, after outputs, after a resume."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api_server.errors import ApiError, NotFoundError
from api_server.schemas.apps import Caller
from api_server.services.jobs.gathering import Gathering
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.waiting import step_of
from api_server.services.quotas.reservation import Reservation
from api_server.services.runs.doing import chat_of
from api_server.services.runs.objects import wish_of
from api_server.stores.jobs import JobStore, NewJob
from api_server.stores.postgres import Connection
from api_server.stores.run_changes import TakenError, add_run
from api_server.stores.run_rows import Event, Run
from api_server.stores.runs import RunStore

Admit = Callable[[Caller, Mapping[str, int]], Awaitable[Sequence[Reservation]]]
"""Counts requests against an app's limits (`services.jobs.service.Admit`)."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A leg that was put into the queue. `after` is the event before its stream, `events` are the
    first of it; `wants_stream` where the client asked for that.
    """

    run: Run
    after: int
    events: Sequence[Event]
    wants_stream: bool


class SubmittedError(Exception):
    """Somebody else was faster."""


class Queue:
    """One object for all requests. `begun` is told of each leg that waits for a worker."""

    def __init__(
        self,
        store: RunStore,
        jobs: JobStore,
        rules: Rules,
        admit: Admit,
        *,
        begun: Callable[[], None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._rules = rules
        self._admit = admit
        self._begun = begun
        self._flushing: Gathering[None, None] = Gathering(self._flush)

    async def aclose(self) -> None:
        """Whoever waits for the disk gets there."""
        await self._flushing.aclose()

    async def begin(
        self,
        caller: Caller,
        model: str,
        work: Callable[[Connection], Awaitable[Begun]],
        *,
        is_one_statement: bool = False,
    ) -> Begun:
        """Begin a leg that counts as one request of the app.

        A worker may begin with it before it is on the disk: what that writes comes behind it. The
        client is told after.
        """
        async with self._admitted(caller, model):
            begun = await self._store.transaction(work, is_one_statement=is_one_statement)
        self._begun()
        await self._flushing.put(None)
        return begun

    async def add(
        self, connection: Connection, caller: Caller, run: Run, events: Sequence[Event], model: str
    ) -> Run:
        """A new run and its first leg, in one statement. Raises `NotFoundError` for its thread."""
        job, seconds = _job_of(caller, run, model), self._rules.timeout_seconds
        added = await add_run(connection, run, events, job, timeout_seconds=seconds)
        if added is None:
            raise NotFoundError.of("thread", run.thread_id)
        return added

    async def put(self, connection: Connection, caller: Caller, run: Run) -> None:
        """A later leg, as a part of the transaction that writes its run."""
        job, seconds = _job_of(caller, run, wish_of(run).model), self._rules.timeout_seconds
        await self._jobs.enqueue(connection, [job], timeout_seconds=seconds)

    # inside

    async def _flush(self, waiting: Sequence[None]) -> Sequence[None]:
        await self._store.flush()
        return waiting

    @asynccontextmanager
    async def _admitted(self, caller: Caller, model: str) -> AsyncIterator[None]:
        reservations = await self._admit(caller, {model: 1})
        try:
            yield
        except (ApiError, TakenError, SubmittedError):
            for each in reservations:
                each.cancel()
            raise
        for each in reservations:
            each.release()


def _job_of(caller: Caller, run: Run, model: str) -> NewJob:
    policy = caller.app.policy
    return NewJob(
        id=run.job_id,
        app_id=run.app_id,
        user=run.user_name,
        request_type="run",
        chat=chat_of(run.id),
        model=model,
        priority=policy.priority,
        step=step_of(policy.weight, policy.priority),
        digest=b"",
    )


def new_job_id() -> str:
    """Nobody can guess it."""
    return f"job_{secrets.token_urlsafe(24)}"
