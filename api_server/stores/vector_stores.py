"""Vector stores in PostgreSQL: what they are called, what is in them, which chunks are to go.

What needs a connection is a part of somebody's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, Row, queries

_SQL = queries("vector_stores")


@dataclass(frozen=True, slots=True)
class VectorStore:
    """`metadata` is JSON; counts are of files."""

    id: str
    created_at: datetime
    name: str
    description: str | None
    metadata: str
    expires_after_days: int | None
    last_active_at: datetime
    is_expired: bool
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    usage_bytes: int


@dataclass(frozen=True, slots=True)
class StoreChange:
    """What is to be written; None: it stays as it is. (None,) sets back."""

    name: tuple[str] | None = None
    expires_after_days: tuple[int | None] | None = None
    metadata: tuple[str] | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """Chunks in the vector database that are to go: of a store, or of one attempt at a file."""

    id: int
    app_id: str
    vector_store_id: str
    file_id: str | None
    generation: str | None


async def insert_store(
    connection: Connection,
    app_id: str,
    vector_store_id: str,
    *,
    name: str,
    description: str | None,
    metadata: str,
    expires_after_days: int | None,
    user: str | None = None,
) -> None:
    """`user` is the end user for whose thread it is made."""
    values = (vector_store_id, app_id, user, name, description, metadata, expires_after_days)
    await connection.execute(_SQL["insert"], *values)


async def hold_store(
    connection: Connection, app_id: str, user: str | None, vector_store_id: str
) -> bool | None:
    """Lock one, so that it neither goes nor expires; whether it has expired. None: no such one.

    `user` None sees all of the app.
    """
    found: bool | None = await connection.fetchval(_SQL["hold"], app_id, user, vector_store_id)
    return found


async def find_store(
    connection: Connection, app_id: str, vector_store_id: str
) -> VectorStore | None:
    row = await connection.fetchrow(_SQL["find"], app_id, vector_store_id)
    return None if row is None else _store(row)


async def touch_stores(
    connection: Connection, app_id: str, vector_store_ids: Sequence[str]
) -> None:
    """They were used now."""
    await connection.execute(_SQL["touch"], app_id, list(vector_store_ids))


class VectorStoreStore:
    """Every method raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def find(self, app_id: str, vector_store_id: str) -> VectorStore | None:
        row = await self.postgres.fetchrow(_SQL["find"], app_id, vector_store_id)
        return None if row is None else _store(row)

    async def page(self, app_id: str, page: Page) -> tuple[list[VectorStore], bool]:
        """A page of an app's, and whether there are more."""
        rows, has_more = await page_of(self.postgres, _SQL, "stores", (app_id,), page)
        return [_store(row) for row in rows], has_more

    async def change(self, app_id: str, vector_store_id: str, change: StoreChange) -> bool:
        """Whether there is one."""
        values: list[object] = []
        for each in (change.name, change.expires_after_days, change.metadata):
            values += [each is not None, None if each is None else each[0]]
        row = await self.postgres.fetchrow(_SQL["change"], app_id, vector_store_id, *values)
        return row is not None

    async def delete(self, app_id: str, vector_store_id: str) -> bool:
        """With what is known of its files; its chunks are to go. Whether there was one."""
        row = await self.postgres.fetchrow(_SQL["delete"], app_id, vector_store_id)
        return row is not None

    async def states(self, app_id: str, vector_store_ids: Sequence[str]) -> dict[str, bool]:
        """Of those there are, whether each has expired."""
        rows = await self.postgres.fetch(_SQL["states"], app_id, list(vector_store_ids))
        return {row["id"]: row["is_expired"] for row in rows}

    async def touch(self, app_id: str, vector_store_ids: Sequence[str]) -> None:
        """They were used now; one that has expired stays so."""
        await self.postgres.execute(_SQL["touch"], app_id, list(vector_store_ids))

    async def expire(self) -> list[str]:
        """End those that were not used for too long; returns the jobs that are not wanted now."""
        rows = await self.postgres.fetch(_SQL["expire"])
        return [row["job_id"] for row in rows]

    async def stale(self, count: int) -> list[Stale]:
        """Some of what is to go; nobody else gets them for a minute."""
        rows = await self.postgres.fetch(_SQL["stale"], count)
        return [Stale(**dict(row)) for row in rows]

    async def removed(self, ids: Sequence[int], *, again_seconds: float) -> None:
        """They are gone from the vector database. They come once more after this time."""
        await self.postgres.execute(_SQL["removed"], list(ids), again_seconds)


def _store(row: Row) -> VectorStore:
    return VectorStore(**{name: row[name] for name in VectorStore.__slots__})
