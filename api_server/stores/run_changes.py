"""Changes of runs in PostgreSQL, each a part of somebody's transaction.

A run is done by whoever holds its job: `write` writes nothing for others. Locks are taken in the
order place in the queue, job, run, thread; whoever adds a run locks its thread first, and that
alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from api_server.stores.jobs import NewJob
from api_server.stores.postgres import Connection, queries
from api_server.stores.run_rows import (
    Action,
    Change,
    Event,
    Run,
    RunStatus,
    Step,
    as_json,
    read_row,
)

_SQL = queries("runs")
_JSON = {"required_action", "last_error", "incomplete_details", "details", "usage", "content"}
_OF_RUN = (
    *("status", "required_action", "last_error", "can_resume", "incomplete_details"),
    *("prompt_tokens", "completion_tokens", "last_event", "started_at", "cancelled_at"),
    *("failed_at", "completed_at", "ended_at", "job_id"),
)


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


async def is_in_turn(connection: Connection) -> bool:
    """Whether this transaction is the one that keeps house."""
    return bool(await connection.fetchval(_SQL["in_turn"]))


async def forget_events(connection: Connection, seconds: float) -> None:
    """Drop the streams of runs that ended so long ago."""
    await connection.execute(_SQL["forget_events"], seconds)


async def late(connection: Connection) -> list[Over]:
    """Some of those that have taken longer than they may."""
    return [read_row(Over, row) for row in await connection.fetch(_SQL["late"])]


async def abandoned(connection: Connection) -> list[Over]:
    """Some of those that nobody will do any more."""
    return [read_row(Over, row) for row in await connection.fetch(_SQL["abandoned"])]


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
    Raises `TakenError`.
    """
    row = await connection.fetchrow(
        _SQL["add"],
        *(run.id, run.thread_id, run.app_id, run.user_name, run.assistant_id, run.body),
        *(run.metadata, run.job_id, run.created_at, run.expires_at),
        *([each.event for each in events], [each.data for each in events]),
        *(job.chat, job.model, job.priority, job.step, job.digest, timeout_seconds),
    )
    if row is None:
        return None
    if not row["is_added"]:
        raise TakenError
    return replace(run, user_name=row["user_name"])


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


async def write(connection: Connection, changes: Sequence[Change]) -> Mapping[str, RunStatus]:
    """Write what changes of runs; returns the state of each that was written.

    Those with a fence are: whose job is still held under it; the others: locked by the caller.
    """
    rows = await connection.fetch(_SQL["write"], *_columns(changes))
    return {row["id"]: row["status"] for row in rows}


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
