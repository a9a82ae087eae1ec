"""Jobs in PostgreSQL: a queue with a fair order, leases with fences, results kept for a while.

A job is handed out by a lease. Whoever lost it, because it was silent for too long, holds an old
fence and can neither complete the job nor put it off: what the later holder says stands.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from api_server.schemas.apps import Priority
from api_server.stores.postgres import Connection, Postgres, Row, queries

State = Literal["queued", "processing", "completed", "error", "cancelled", "expired"]

Kind = Literal["chat", "run", "ingest"]
"""Of work: a chat of the jobs API, a part of an assistant's run, a file for a vector store."""

CLOCKS: dict[Kind, str] = {
    "chat": "job_clock",
    "run": "job_clock_run",
    "ingest": "job_clock_ingest",
}
"""How far the order of each kind is worked off."""

CHANNEL = "jobs"
"""Notified with `new`, `done`, `stop JOB_ID`, and of runs with `cancel JOB_ID`, `events RUN_ID`."""

BUDGET_SECONDS = 5.0
PARTS_OF_QUEUE = 10

_SQL = queries("jobs")


@dataclass(frozen=True, slots=True)
class NewJob:
    """One to accept. `chat` is the body for the model; `step` is what it takes of the order, and
    `digest` tells requests apart that come with the same idempotency key.
    """

    id: str
    app_id: str
    user: str | None
    request_type: str
    chat: str
    model: str
    priority: Priority
    step: int
    digest: bytes
    idempotency_key: str | None = None
    batch_id: str | None = None
    item: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """A job that was accepted before, under an idempotency key."""

    id: str
    digest: bytes
    batch_id: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is ours until its lease ends. `policy` is the app's, as JSON, None for no app."""

    id: str
    app_id: str
    user: str | None
    request_type: str
    chat: str
    model: str
    priority: Priority
    attempts: int
    fence: int
    seconds_left: float
    waited_seconds: float
    app_name: str | None
    policy: str | None
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended, for whoever holds the fence. `response` is JSON, of a completed one."""

    id: str
    fence: int
    state: Literal["completed", "error"]
    error_code: str | None = None
    message: str | None = None
    retry_possible: bool | None = None
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the history."""

    id: str
    state: State
    request_type: str
    model: str
    batch_id: str | None
    item: int
    error_code: str | None
    message: str | None
    retry_possible: bool | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Job(Listed):
    """All that is known of a job; `position` counts from 1, and only those that wait have one."""

    app_id: str
    user: str | None
    response: str | None
    position: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all jobs and of the workers that live; `mean_seconds` is None before the first end.

    `oldest_seconds` is how long the job waits that has waited longest, None where none does.
    """

    queued: int
    processing: int
    slots: int
    busy: int
    mean_seconds: float | None
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the history: of an app, perhaps of one of its users, in a state, of a type."""

    app_id: str
    user: str | None = None
    state: str | None = None
    request_type: str | None = None
    batch_id: str | None = None
    before: tuple[datetime, str] | None = None
    limit: int = 50


Accepted = Sequence[str] | Sequence[Known] | None
"""Of one submission: new ids, the jobs its key already stands for, or None for a full queue."""


class JobStore:
    """The jobs of one kind: what is put in, claimed and counted is of that kind.

    Every method raises `DependencyDownError` where PostgreSQL is away.
    """

    def __init__(self, postgres: Postgres, kind: Kind = "chat") -> None:
        self._postgres = postgres
        self._kind = kind
        self._clock = CLOCKS[kind]

    @property
    def postgres(self) -> Postgres:
        return self._postgres

    async def add(
        self,
        submissions: Sequence[Sequence[NewJob]],
        *,
        timeout_seconds: float,
        queue_size: int,
    ) -> list[Accepted]:
        """Accept submissions in one transaction, each with all of its jobs or none.

        The last tenth of the queue is for apps that have no more than that in it: one alone cannot
        keep the others out. Several processes at once may go beyond `queue_size` by what one of
        them adds at a time.
        """

        async def work(connection: Connection) -> list[Accepted]:
            room = queue_size - (await connection.fetchval(_SQL["queued"], self._kind))
            last = queue_size // PARTS_OF_QUEUE
            waiting: Counter[str] = Counter()
            if sum(map(len, submissions)) > room - last:
                apps = sorted({jobs[0].app_id for jobs in submissions})
                rows = await connection.fetch(_SQL["queued_of_apps"], apps, self._kind)
                waiting.update({row["app_id"]: row["queued"] for row in rows})
            answers: list[Accepted] = [None] * len(submissions)
            fitting = []
            for number, jobs in enumerate(submissions):
                count, app_id = len(jobs), jobs[0].app_id
                if count <= room - last or (count <= room and waiting[app_id] + count <= last):
                    room -= count
                    waiting[app_id] += count
                    fitting.append(number)
            await self._put_in(connection, submissions, fitting, answers, timeout_seconds)
            return answers

        return await self._postgres.transaction(work)

    async def enqueue(
        self, connection: Connection, jobs: Sequence[NewJob], *, timeout_seconds: float
    ) -> None:
        """Put jobs in as a part of somebody's transaction, however many wait. They have no keys."""
        await connection.fetch(_SQL["add"], *_columns(jobs), timeout_seconds, self._kind)
        await connection.execute(_SQL["line_up"], [job.id for job in jobs], self._clock)

    async def _put_in(
        self,
        connection: Connection,
        submissions: Sequence[Sequence[NewJob]],
        fitting: Sequence[int],
        answers: list[Accepted],
        timeout_seconds: float,
    ) -> None:
        jobs = [job for number in fitting for job in submissions[number]]
        if not jobs:
            return
        rows = await connection.fetch(_SQL["add"], *_columns(jobs), timeout_seconds, self._kind)
        added = {row["id"] for row in rows}
        torn = _torn(submissions, fitting, added)
        if torn:
            await connection.execute(_SQL["take_back"], sorted(torn))
            added -= torn
        added_ids = [job.id for job in jobs if job.id in added]
        await connection.execute(_SQL["line_up"], added_ids, self._clock)
        known: dict[str, Known] = {}
        doubled = [job for job in jobs if job.id not in added]
        if doubled:
            rows = await connection.fetch(
                _SQL["known_keys"],
                [job.app_id for job in doubled],
                [job.idempotency_key for job in doubled],
            )
            known = {
                doubled[row["place"] - 1].id: Known(row["id"], row["digest"], row["batch_id"])
                for row in rows
            }
        for number in fitting:
            submitted = submissions[number]
            if all(job.id in added for job in submitted):
                answers[number] = [job.id for job in submitted]
            else:
                answers[number] = [known[job.id] for job in submitted if job.id in known]

    async def claim(
        self,
        owner: str,
        count: int,
        *,
        lease_seconds: float,
        timeout_seconds: float,
        max_attempts: int,
        without_models: Sequence[str] = (),
        without_apps: Sequence[str] = (),
    ) -> list[Taken]:
        """Take up to so many jobs: first those whose lease is over, then the first in the queue."""

        rows = await self._postgres.fetch(
            _SQL["claim"],
            *(owner, count, list(without_models), list(without_apps)),
            *(lease_seconds, timeout_seconds, max_attempts, self._kind, self._clock),
            budget_seconds=BUDGET_SECONDS,
        )
        return [_taken(row) for row in rows]

    async def put_off(self, job_id: str, fence: int, seconds: float) -> None:
        """Give a job back, to be taken up again after so long; it counts as no attempt."""
        await self._postgres.execute(_SQL["put_off"], job_id, fence, seconds)

    async def renew(self, held: Sequence[tuple[str, int]], lease_seconds: float) -> None:
        """Extend the leases of jobs, by id and fence; those that were lost stay lost."""
        ids, fences = [each[0] for each in held], [each[1] for each in held]
        await self._postgres.execute(_SQL["renew"], ids, fences, lease_seconds)

    async def still_held(self, held: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Which of these are still ours to do: neither cancelled, ended nor given to another."""
        ids, fences = [each[0] for each in held], [each[1] for each in held]
        rows = await self._postgres.fetch(_SQL["still_held"], ids, fences)
        return {(row["id"], row["fence"]) for row in rows}

    async def finish(self, ends: Sequence[End]) -> set[str]:
        """Write how jobs ended; returns the ids of those whose fence was right.

        May be called again with the same: what was written counts as written.
        """
        rows = await self._postgres.fetch(
            _SQL["finish"],
            *([end.id for end in ends], [end.fence for end in ends], [end.state for end in ends]),
            *([end.error_code for end in ends], [end.message for end in ends]),
            *([end.retry_possible for end in ends], [end.response for end in ends]),
            budget_seconds=BUDGET_SECONDS,
        )
        done = {row["id"] for row in rows}
        if left := [end for end in ends if end.id not in done]:
            ids, fences = [end.id for end in left], [end.fence for end in left]
            rows = await self._postgres.fetch(_SQL["finished_as"], ids, fences)
            done |= {row["id"] for row in rows}
        return done

    async def cancel(self, job_ids: Sequence[str]) -> set[str]:
        """Cancel those that wait or run; returns their ids."""

        async def work(connection: Connection) -> set[str]:
            waiting = await connection.fetch(_SQL["cancel_waiting"], list(job_ids))
            cancelled: set[str] = {row["id"] for row in waiting}
            left = [each for each in job_ids if each not in cancelled]
            running = await connection.fetch(_SQL["cancel_running"], left)
            if cancelled:
                await connection.execute("select pg_notify($1, 'done')", CHANNEL)
            return cancelled | {row["id"] for row in running}

        return await self._postgres.transaction(work)

    async def restart(
        self, job_ids: Sequence[str], *, timeout_seconds: float, queue_size: int
    ) -> set[str] | None:
        """Put failed jobs to the end of their app's queue again; returns the ids of those, None
        where there is no room for all.
        """

        async def work(connection: Connection) -> set[str] | None:
            if queue_size - (await connection.fetchval(_SQL["queued"], self._kind)) < len(job_ids):
                return None
            rows = await connection.fetch(_SQL["restart"], list(job_ids), timeout_seconds)
            again = {row["id"] for row in rows}
            ordered = [each for each in job_ids if each in again]
            await connection.execute(_SQL["line_up"], ordered, self._clock)
            return again

        return await self._postgres.transaction(work)

    async def find(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Jobs as they are now, with their positions."""
        rows = await self._postgres.fetch(_SQL["status"], list(job_ids))
        return {row["id"]: Job(**_plain(row)) for row in rows}

    async def of_batch(self, batch_id: str) -> list[str]:
        """The ids of a batch's jobs, in the order they were sent."""
        rows = await self._postgres.fetch(_SQL["of_batch"], batch_id)
        return [row["id"] for row in rows]

    async def history(self, wanted: Wanted) -> list[Listed]:
        """Jobs, newest first."""
        before_at, before_id = wanted.before or (None, None)
        rows = await self._postgres.fetch(
            _SQL["history"],
            *(wanted.app_id, wanted.user, wanted.state, wanted.request_type, wanted.batch_id),
            *(before_at, before_id, wanted.limit),
        )
        return [Listed(**dict(row)) for row in rows]

    async def counts(self) -> Counts:
        """How many wait and run, and who works."""
        row = await self._postgres.fetchrow(_SQL["counts"], self._kind)
        assert row is not None, "an aggregate has always a row"
        return Counts(**dict(row))

    async def beat(self, worker: str, slots: int, busy: int, mean_seconds: float | None) -> None:
        """Say that a worker lives."""
        await self._postgres.execute(_SQL["beat"], worker, slots, busy, mean_seconds, self._kind)

    async def leave(self, worker: str) -> None:
        """Say that it does not any more."""
        await self._postgres.execute(_SQL["leave"], worker)

    async def keep(self, *, max_attempts: int, retention_seconds: float) -> None:
        """End what is too late, forget what is old, add the counts up; in one process at a time."""

        async def work(connection: Connection) -> None:
            if not await connection.fetchval(_SQL["in_turn"]):
                return
            await connection.execute(_SQL["add_up"])
            if await connection.fetch(_SQL["expire_waiting"]):
                await connection.execute("select pg_notify($1, 'done')", CHANNEL)
            await connection.fetch(_SQL["expire_running"], max_attempts)
            await connection.fetch(_SQL["forget_old"], retention_seconds)

        await self._postgres.transaction(work, budget_seconds=BUDGET_SECONDS)


def _torn(
    submissions: Sequence[Sequence[NewJob]], fitting: Sequence[int], added: set[str]
) -> set[str]:
    """What was added of submissions of which something else was known already."""
    torn: set[str] = set()
    for number in fitting:
        ids = {job.id for job in submissions[number]}
        if not ids <= added:
            torn |= ids & added
    return torn


def _columns(jobs: Sequence[NewJob]) -> list[list[Any]]:
    return [
        [job.id for job in jobs],
        [job.app_id for job in jobs],
        [job.user for job in jobs],
        [job.request_type for job in jobs],
        [job.chat for job in jobs],
        [job.model for job in jobs],
        [job.priority for job in jobs],
        [job.step for job in jobs],
        [job.idempotency_key for job in jobs],
        [job.digest for job in jobs],
        [job.batch_id for job in jobs],
        [job.item for job in jobs],
    ]


def _plain(row: Row) -> dict[str, Any]:
    fields = dict(row)
    fields["user"] = fields.pop("user_name")
    return fields


def _taken(row: Row) -> Taken:
    return Taken(**_plain(row))
