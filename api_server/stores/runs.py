"""Runs in PostgreSQL: what they are, how far they are, what their streams said.

What is a part of somebody's transaction stands in `run_changes`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

import asyncpg
import msgspec

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, queries
from api_server.stores.run_changes import TakenError, all_actions, all_steps, half_messages, write
from api_server.stores.run_rows import (
    Change,
    Event,
    Heard,
    Loaded,
    Run,
    RunStatus,
    Step,
    read_row,
)

WRITE_SECONDS = 5.0
MOST_EVENTS = 1000
"""Read at once."""

_SQL = queries("runs")


class _Heard(msgspec.Struct):
    id: str
    role: Literal["user", "assistant"]
    content: msgspec.Raw


_HEARD = msgspec.json.Decoder(list[_Heard])

T = TypeVar("T")


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
        """Raises `TakenError` for a run that goes on in a thread which has an active one."""
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
        return await self._postgres.transaction(
            lambda connection: write(connection, changes),
            budget_seconds=WRITE_SECONDS,
            is_one_statement=True,
        )

    async def still_ours(self, changes: Sequence[Change]) -> Mapping[str, RunStatus]:
        """The states of those runs whose jobs are held under these fences."""
        rows = await self._postgres.fetch(
            _SQL["still_ours"],
            [each.run.id for each in changes],
            [each.run.job_id for each in changes],
            [each.fence for each in changes],
        )
        return {row["id"]: row["status"] for row in rows}
