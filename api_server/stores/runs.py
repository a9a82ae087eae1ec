"""Runs in PostgreSQL: what they are, how far they are, what their streams said.

A run is done by whoever holds its job: `write` writes nothing for others. Locks are taken in the
order place in the queue, job, run, thread; whoever adds a run locks its thread first, and that
alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeVar

import asyncpg
import msgspec

from api_server.schemas.paging import Page
from api_server.stores.jobs import NewJob
from api_server.stores.paging import page_of
from api_server.stores.postgres import AGAIN_SECONDS, Connection, Postgres, queries
from api_server.stores.run_rows import (
    Action,
    Change,
    Event,
    Heard,
    Loaded,
    Run,
    RunStatus,
    Step,
    as_json,
    read_row,
)

WRITE_SECONDS = 5.0
MOST_EVENTS = 1000
"""Read at once."""

_SQL = queries("runs")
_JSON = {"required_action", "last_error", "incomplete_details", "details", "usage", "content"}
_OF_RUN = (
    *("status", "required_action", "last_error", "can_resume", "incomplete_details"),
    *("prompt_tokens", "completion_tokens", "last_event", "started_at", "cancelled_at"),
    *("failed_at", "completed_at", "ended_at", "job_id"),
)


class _Heard(msgspec.Struct):
    id: str
    role: Literal["user", "assistant"]
    content: msgspec.Raw


_HEARD = msgspec.json.Decoder(list[_Heard])

T = TypeVar("T")


class TakenError(Exception):
    """The thread has an active run."""


@dataclass(frozen=True, slots=True)
class Over:
    """A run that is to end: its time is over, or its job came to an end without it; `job_state`
    None where the job is gone.
    """

    run_id: str
    job_id: str
    job_state: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """How far the stream of a run is."""

    last_event: int
    status: RunStatus
    has_events: bool


class RunStore:
    """Every method raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def transaction(
        self, work: Callable[[Connection], Awaitable[T]], *, is_one_statement: bool = False
    ) -> T:
        """Raises `TakenError` for a second active run of a thread."""
        try:
            return await self._postgres.transaction(
                work, budget_seconds=WRITE_SECONDS, is_one_statement=is_one_statement
            )
        except asyncpg.UniqueViolationError as exc:
            if exc.constraint_name != "runs_active":
                raise
            raise TakenError from exc

    async def flush(self) -> None:
        """What `add_run` and `continue_run` were part of is on the disk after this."""
        await self._postgres.execute(_SQL["flush"], budget_seconds=WRITE_SECONDS)

    # reading

    async def assistant(self, app_id: str, assistant_id: str) -> tuple[str, datetime] | None:
        """The body of an assistant, as JSON, and PostgreSQL's clock."""
        row = await self._postgres.fetchrow(_SQL["assistant"], assistant_id, app_id)
        return None if row is None else (row["body"], row["at"])

    async def find(self, app_id: str, user: str | None, thread_id: str, run_id: str) -> Run | None:
        """One run."""
        row = await self._postgres.fetchrow(_SQL["find"], run_id, thread_id, app_id, user)
        return None if row is None else read_row(Run, row)

    async def listed(self, app_id: str, thread_id: str, page: Page) -> tuple[list[Run], bool]:
        """A page of a thread's runs, and whether the list goes on."""
        rows, more = await page_of(self._postgres, _SQL, "list", (app_id, thread_id), page)
        return [read_row(Run, row) for row in rows], more

    async def modify(
        self, app_id: str, user: str | None, thread_id: str, run_id: str, metadata: str
    ) -> bool:
        """Replace the metadata; False where there is no such run."""
        values = (run_id, thread_id, app_id, user, metadata)
        return await self._postgres.fetchrow(_SQL["modify"], *values) is not None

    async def steps(self, app_id: str, run_id: str, page: Page) -> tuple[list[Step], bool]:
        """A page of a run's steps, and whether the list goes on."""
        rows, more = await page_of(self._postgres, _SQL, "steps", (app_id, run_id), page)
        return [read_row(Step, row) for row in rows], more

    async def step(self, app_id: str, run_id: str, step_id: str) -> Step | None:
        """One step."""
        row = await self._postgres.fetchrow(_SQL["step"], app_id, run_id, step_id)
        return None if row is None else read_row(Step, row)

    async def load(self, run_id: str, most_messages: int) -> Loaded | None:
        """All that a leg begins with; None where the run is gone."""

        async def work(connection: Connection) -> Loaded | None:
            row = await connection.fetchrow(_SQL["load"], run_id, most_messages)
            if row is None:
                return None
            run = read_row(Run, row)
            resources, at = row["thread_resources"], row["at"]
            if run.leg == 1 and run.started_at is None:  # nobody has done anything for it
                heard = _HEARD.decode(row["heard"] or "[]")
                told = [
                    Heard(each.id, each.role, None, bytes(each.content).decode()) for each in heard
                ]
                return Loaded(run, (), (), (), resources, at, told)
            return Loaded(
                *(run, await all_steps(connection, run_id), await all_actions(connection, run_id)),
                *(await half_messages(connection, run_id), resources, at),
            )

        return await self._postgres.use(work)

    async def conversation(self, run: Run, most: int) -> list[Heard]:
        """The newest messages of the thread that a model may see, the oldest first."""
        rows = await self._postgres.fetch(_SQL["conversation"], run.thread_id, run.id, most)
        return [read_row(Heard, row) for row in rows]

    async def events(self, run_id: str, after: int) -> list[Event]:
        """What the stream said after an event, `MOST_EVENTS` of it."""
        rows = await self._postgres.fetch(_SQL["events"], run_id, after, MOST_EVENTS)
        return [read_row(Event, row) for row in rows]

    async def position(self, run_id: str) -> Position | None:
        """How far the stream is; None where the run is gone."""
        row = await self._postgres.fetchrow(_SQL["position"], run_id)
        return None if row is None else read_row(Position, row)

    async def cancelling(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these somebody wants cancelled."""
        rows = await self._postgres.fetch(_SQL["cancelling"], list(run_ids))
        return [row["id"] for row in rows]

    # writing, by who does runs

    async def write(self, changes: Sequence[Change]) -> Mapping[str, RunStatus]:
        """Write what belongs to runs that are done here; returns the state of each that is ours.

        May be called again with the same. A run that is not in the answer is somebody else's now,
        or is being cancelled where it would have waited for a client (`still_ours` tells).
        """
        try:
            rows = await self._postgres.fetch(
                _SQL["write"], *_columns(changes), budget_seconds=WRITE_SECONDS
            )
        except asyncpg.DeadlockDetectedError:  # its thread is being deleted
            await asyncio.sleep(AGAIN_SECONDS[0])
            rows = await self._postgres.fetch(
                _SQL["write"], *_columns(changes), budget_seconds=WRITE_SECONDS
            )
        return {row["id"]: row["status"] for row in rows}

    async def still_ours(self, changes: Sequence[Change]) -> Mapping[str, RunStatus]:
        """The states of those runs whose jobs are held under these fences."""
        rows = await self._postgres.fetch(
            _SQL["still_ours"],
            [each.run.id for each in changes],
            [each.run.job_id for each in changes],
            [each.fence for each in changes],
        )
        return {row["id"]: row["status"] for row in rows}

    # keeping

    async def late(self, connection: Connection) -> list[Over]:
        """Those that have taken longer than they may."""
        return [read_row(Over, row) for row in await connection.fetch(_SQL["late"])]

    async def abandoned(self, connection: Connection) -> list[Over]:
        """Those that nobody will do any more."""
        return [read_row(Over, row) for row in await connection.fetch(_SQL["abandoned"])]


# parts of somebody's transaction


async def is_in_turn(connection: Connection) -> bool:
    """Whether this transaction is the one that keeps house."""
    return bool(await connection.fetchval(_SQL["in_turn"]))


async def forget_events(connection: Connection, seconds: float) -> None:
    """Drop the streams of runs that ended so long ago."""
    await connection.execute(_SQL["forget_events"], seconds)


async def add_run(
    connection: Connection,
    run: Run,
    events: Sequence[Event],
    job: NewJob,
    *,
    timeout_seconds: float,
) -> Run | None:
    """Lock a run's thread, write the run down with the first events of its stream, and put its job
    into the queue; None where its user, or for None its app, has no such thread.

    The run belongs to the thread's user then. What this is part of counts only after a `flush`.
    """
    row = await connection.fetchrow(
        _SQL["add"],
        *(run.id, run.thread_id, run.app_id, run.user_name, run.assistant_id, run.body),
        *(run.metadata, run.job_id, run.created_at, run.expires_at),
        *([each.event for each in events], [each.data for each in events]),
        *(job.chat, job.model, job.priority, job.step, job.digest, timeout_seconds),
    )
    return None if row is None else replace(run, user_name=row["user_name"])


async def lock_job(connection: Connection, job_id: str) -> str | None:
    """The state of a job, which nobody changes until the transaction ends."""
    row = await connection.fetchrow(_SQL["lock_job"], job_id)
    return None if row is None else row["state"]


async def lock_run(connection: Connection, run_id: str) -> tuple[Run, datetime] | None:
    """A run, which nobody changes until the transaction ends, and PostgreSQL's clock."""
    row = await connection.fetchrow(_SQL["lock"], run_id)
    return None if row is None else (read_row(Run, row), row["at"])


async def all_steps(connection: Connection, run_id: str) -> list[Step]:
    return [read_row(Step, row) for row in await connection.fetch(_SQL["all_steps"], run_id)]


async def all_actions(connection: Connection, run_id: str) -> list[Action]:
    return [read_row(Action, row) for row in await connection.fetch(_SQL["all_actions"], run_id)]


async def half_messages(connection: Connection, run_id: str) -> list[str]:
    """Ids of messages of the run that never were completed."""
    return [row["id"] for row in await connection.fetch(_SQL["half_messages"], run_id)]


async def put(connection: Connection, change: Change) -> None:
    """Write what changes of a run that is locked."""
    await connection.fetch(_SQL["write"], *_columns([change]))


async def continue_run(
    connection: Connection, run_id: str, job_id: str, seconds: float | None
) -> Run:
    """A new leg of a run that is locked; `seconds` sets its time anew. A `flush` is due."""
    row = await connection.fetchrow(_SQL["continue"], run_id, job_id, seconds)
    assert row is not None, "whoever continues a run has locked it"
    return read_row(Run, row)


async def end_job(connection: Connection, job_id: str, message: str) -> None:
    """End a job wherever it is; who does it is told."""
    await connection.fetch(_SQL["end_job"], job_id, message)


async def active_jobs(connection: Connection, thread_id: str) -> list[str]:
    """The jobs of a thread's runs that have not ended."""
    return [row["job_id"] for row in await connection.fetch(_SQL["active_jobs"], thread_id)]


async def hurry(connection: Connection, job_id: str) -> None:
    """A job that was put off is taken up at once."""
    await connection.fetch(_SQL["hurry"], job_id)


async def tell_cancel(connection: Connection, job_id: str) -> None:
    """Whoever does this job shall look at its run."""
    await connection.execute("select pg_notify('jobs', $1)", f"cancel {job_id}")


def _columns(changes: Sequence[Change]) -> tuple[Any, ...]:
    ordered = sorted(changes, key=lambda each: each.run.job_id)
    runs = [
        {"run_id": each.run.id, "fence": each.fence}
        | {name: _value(name, getattr(each.run, name)) for name in _OF_RUN}
        for each in ordered
    ]
    numbered = [(each.run.id, event) for each in ordered for event in each.events]
    return (
        _text(runs),
        _rows(row for each in ordered for row in each.steps.values()),
        _rows(row for each in ordered for row in each.messages.values()),
        _text(
            [
                {"id": id_, "run_id": each.run.id}
                for each in ordered
                for id_ in sorted(each.gone_messages)
            ]
        ),
        _rows(row for each in ordered for row in each.actions.values()),
        [run_id for run_id, _ in numbered],
        [event.n for _, event in numbered],
        [event.event for _, event in numbered],
        [event.data for _, event in numbered],
    )


def _rows(rows: Any) -> str:
    return _text(
        [
            {name: _value(name, value) for name, value in as_json(row).items()} | {"place": place}
            for place, row in enumerate(rows)
        ]
    )


def _value(name: str, value: Any) -> Any:
    if name in _JSON and value is not None:
        return msgspec.Raw(value.encode())
    return value


def _text(rows: list[dict[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode()
