"""The database as a command sees it: opened for one thing, closed after it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from api_server.errors import ApiError, SetupError
from api_server.settings import Settings
from api_server.stores.postgres import Postgres

T = TypeVar("T")

POSTGRES_URL_FILE = "postgres.url"
"""Where `make local` says how to reach its own, in DATA_DIR."""


def postgres_url(settings: Settings) -> str:
    """Raises `SetupError` where there is no database."""
    if settings.postgres_url is None:
        beside = settings.environment.data_dir / POSTGRES_URL_FILE
        hint = f' That of `make local`: POSTGRES_URL="$(cat {beside})".' if beside.exists() else ""
        raise SetupError(
            f"This needs PostgreSQL: set POSTGRES_URL in the environment or in .env.{hint}"
        )
    return settings.postgres_url


def with_postgres(settings: Settings, work: Callable[[Postgres], Awaitable[T]]) -> T:
    """Do it. What goes wrong becomes a `SetupError` with the sentence that a client would get."""

    async def run() -> T:
        postgres = Postgres(postgres_url(settings), pool_size=1)
        try:
            return await work(postgres)
        finally:
            await postgres.aclose()

    try:
        return asyncio.run(run())
    except ApiError as exc:
        raise SetupError(exc.message) from exc
