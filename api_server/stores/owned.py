"""Whether what somebody names is theirs: files, vector stores. Parts of somebody's transaction.

`user` None stands for the app itself, which has all that its users have.
"""

from collections.abc import Sequence

from api_server.stores.postgres import Connection, queries

_SQL = queries("owned")


async def missing_files(
    connection: Connection, app_id: str, user: str | None, file_ids: Sequence[str]
) -> list[str]:
    """Which of these files they do not have, or not any more."""
    rows = await connection.fetch(_SQL["missing_files"], app_id, list(file_ids), user)
    return [row["id"] for row in rows]


async def missing_vector_stores(
    connection: Connection, app_id: str, user: str | None, vector_store_ids: Sequence[str]
) -> list[str]:
    """Which of these vector stores they do not have."""
    ids = list(vector_store_ids)
    rows = await connection.fetch(_SQL["missing_vector_stores"], app_id, ids, user)
    return [row["id"] for row in rows]
