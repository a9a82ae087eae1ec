"""Calls of functions that runs have made, in PostgreSQL. `stores.runs` writes them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Postgres, queries

Status = Literal["pending", "completed", "failed", "cancelled", "expired"]

_SQL = queries("actions")


@dataclass(frozen=True, slots=True)
class Action:
    """One call. `is_ours`: the stack does it itself; else a client has to submit its output."""

    id: str
    thread_id: str
    run_id: str
    step_id: str
    tool_call_id: str
    name: str
    arguments: str
    is_ours: bool
    status: Status
    output: str | None
    created_at: datetime
    ended_at: datetime | None


class ActionStore:
    """Raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def listed(
        self,
        app_id: str,
        user: str | None,
        page: Page,
        *,
        status: Status | None = None,
        thread_id: str | None = None,
    ) -> tuple[list[Action], bool]:
        """A page of an app's, perhaps of one of its users', and whether there are more."""
        scope = (app_id, user, status, thread_id)
        rows, has_more = await page_of(self._postgres, _SQL, "actions", scope, page)
        return [Action(**dict(row)) for row in rows], has_more
