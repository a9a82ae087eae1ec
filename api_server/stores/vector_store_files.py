"""Files of vector stores in PostgreSQL, and batches of them. `stores/ingests.py` has the same rows
as whoever takes the files in sees them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, Row, queries

_SQL = queries("vector_store_files")


@dataclass(frozen=True, slots=True)
class NewFile:
    """`chunking` and `attributes` are JSON; the job takes it in, as this generation."""

    file_id: str
    chunking: str
    attributes: str
    job_id: str
    generation: str


@dataclass(frozen=True, slots=True)
class StoreFile:
    """`last_error`, `chunking` and `attributes` are JSON."""

    file_id: str
    created_at: datetime
    status: str
    last_error: str | None
    chunking: str
    attributes: str
    usage_bytes: int
    generation: str
    job_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Counts are of files; those that were added again since are another batch's."""

    id: str
    created_at: datetime
    is_cancelled: bool
    in_progress: int
    completed: int
    failed: int
    cancelled: int


Taken = tuple[str, str, str]
"""Vector store, file, generation."""


async def count_files(connection: Connection, vector_store_id: str) -> int:
    return int(await connection.fetchval(_SQL["count"], vector_store_id))


async def count_chunks(connection: Connection, app_id: str) -> int:
    """In all vector stores of an app that have not expired."""
    return int(await connection.fetchval(_SQL["count_chunks"], app_id))


async def add_files(
    connection: Connection,
    app_id: str,
    vector_store_id: str,
    files: Sequence[NewFile],
    batch_id: str | None,
) -> None:
    """Files that are in it already are taken in anew; what they had there is to go."""
    columns = (
        [each.file_id for each in files],
        [each.chunking for each in files],
        [each.attributes for each in files],
        [each.job_id for each in files],
        [each.generation for each in files],
    )
    await connection.execute(_SQL["add"], app_id, vector_store_id, *columns, batch_id)


async def files_there(
    connection: Connection, app_id: str, vector_store_id: str, file_ids: Sequence[str]
) -> set[str]:
    """Those of these files that are in it."""
    rows = await connection.fetch(_SQL["there"], app_id, vector_store_id, list(file_ids))
    return {row["file_id"] for row in rows}


async def insert_batch(
    connection: Connection, app_id: str, vector_store_id: str, batch_id: str
) -> None:
    await connection.execute(_SQL["insert_batch"], batch_id, vector_store_id, app_id)


async def set_attributes(
    connection: Connection, app_id: str, vector_store_id: str, file_id: str, attributes: str
) -> bool:
    """Whether the file is in it."""
    values = (app_id, vector_store_id, file_id, attributes)
    return await connection.fetchval(_SQL["set_attributes"], *values) is not None


async def find_file(
    connection: Connection, app_id: str, vector_store_id: str, file_id: str
) -> StoreFile | None:
    row = await connection.fetchrow(_SQL["find"], app_id, vector_store_id, file_id)
    return None if row is None else StoreFile(**dict(row))


async def find_batch(
    connection: Connection, app_id: str, vector_store_id: str, batch_id: str
) -> Batch | None:
    row = await connection.fetchrow(_SQL["find_batch"], app_id, vector_store_id, batch_id)
    return None if row is None else Batch(**dict(row))


async def cancel_batch(
    connection: Connection, app_id: str, vector_store_id: str, batch_id: str
) -> list[str] | None:
    """Stop what is under way; the jobs that nobody wants now, None where there is no such batch."""
    values = (app_id, vector_store_id, batch_id)
    if await connection.fetchval(_SQL["cancel_batch"], *values) is None:
        return None
    return [row["job_id"] for row in await connection.fetch(_SQL["cancel_files"], *values)]


class VectorStoreFileStore:
    """Every method raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def find(self, app_id: str, vector_store_id: str, file_id: str) -> StoreFile | None:
        row = await self.postgres.fetchrow(_SQL["find"], app_id, vector_store_id, file_id)
        return None if row is None else StoreFile(**dict(row))

    async def page(
        self,
        app_id: str,
        vector_store_id: str,
        page: Page,
        *,
        status: str | None = None,
        batch_id: str | None = None,
    ) -> tuple[list[StoreFile], bool]:
        """A page of a store's, or of a batch's, and whether there are more."""
        scope = (app_id, vector_store_id, status, batch_id)
        rows, has_more = await page_of(self.postgres, _SQL, "files", scope, page)
        return [StoreFile(**dict(row)) for row in rows], has_more

    async def remove(self, app_id: str, vector_store_id: str, file_id: str) -> str | None:
        """Take one out; its chunks are to go. Its job, None where it was not in there."""
        row = await self.postgres.fetchrow(_SQL["remove"], app_id, vector_store_id, file_id)
        return None if row is None else row["job_id"]

    async def current(self, app_id: str, taken: Iterable[Taken]) -> dict[Taken, str]:
        """Of these, those that may be found, with their attributes as JSON."""
        columns = [list(each) for each in zip(*taken, strict=True)] or [[], [], []]
        rows: list[Row] = await self.postgres.fetch(_SQL["current"], app_id, *columns)
        return {
            (row["vector_store_id"], row["file_id"], row["generation"]): row["attributes"]
            for row in rows
        }
