"""Assistants in PostgreSQL. What an assistant is made of is one JSON object, as text."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, Row, queries

_SQL = queries("assistants")

Change = Callable[[Connection, "Assistant"], Awaitable[str]]
"""Makes the new body of an assistant out of what it is now."""


@dataclass(frozen=True, slots=True)
class Assistant:
    """An assistant as it is kept; `body` is a `schemas.assistants.KeptAssistant` as JSON."""

    id: str
    created_at: datetime
    body: str


async def insert_assistant(
    connection: Connection, app_id: str, assistant_id: str, body: str
) -> Assistant:
    """Write one down."""
    row = await connection.fetchrow(_SQL["insert"], assistant_id, app_id, body)
    assert row is not None, "an insert returns its row"
    return _assistant(row)


class AssistantStore:
    """What is asked of assistants."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def find(self, app_id: str, assistant_id: str) -> Assistant | None:
        row = await self.postgres.fetchrow(_SQL["find"], app_id, assistant_id)
        return None if row is None else _assistant(row)

    async def ensure(self, app_id: str, assistant_id: str, body: str) -> None:
        """Write one down, unless it is there."""
        await self.postgres.execute(_SQL["ensure"], assistant_id, app_id, body)

    async def change(self, app_id: str, assistant_id: str, change: Change) -> Assistant | None:
        """Write what `change` makes of it, one after the other; None where there is none."""

        async def work(connection: Connection) -> Assistant | None:
            row = await connection.fetchrow(_SQL["lock"], app_id, assistant_id)
            if row is None:
                return None
            body = await change(connection, _assistant(row))
            row = await connection.fetchrow(_SQL["change"], app_id, assistant_id, body)
            assert row is not None, "the row is locked"
            return _assistant(row)

        return await self.postgres.transaction(work)

    async def delete(self, app_id: str, assistant_id: str) -> bool:
        """Whether there was one."""
        return await self.postgres.execute(_SQL["delete"], app_id, assistant_id) != "DELETE 0"

    async def page(self, app_id: str, page: Page) -> tuple[list[Assistant], bool]:
        """A page of an app's, and whether there are more."""
        rows, has_more = await page_of(self.postgres, _SQL, "assistants", (app_id,), page)
        return [_assistant(row) for row in rows], has_more


def _assistant(row: Row) -> Assistant:
    return Assistant(**dict(row))
