"""Whether what an app names is its own: files, vector stores. Parts of somebody's transaction."""

from collections.abc import Sequence

from api_server.stores.postgres import Connection, queries

_SQL = queries("owned")


async def missing_files(connection: Connection, app_id: str, file_ids: Sequence[str]) -> list[str]:
    """Which of these files the app does not have, or not any more."""
    rows = await connection.fetch(_SQL["missing_files"], app_id, list(file_ids))
    return [row["id"] for row in rows]


async def missing_vector_stores(
    connection: Connection, app_id: str, vector_store_ids: Sequence[str]
) -> list[str]:
    """Which of these vector stores the app does not have."""
    rows = await connection.fetch(_SQL["missing_vector_stores"], app_id, list(vector_store_ids))
    return [row["id"] for row in rows]
