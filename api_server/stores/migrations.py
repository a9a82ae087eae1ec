"""Brings the database's tables up to what this version of the code wants. Forward only.

Each file of `init-scripts/postgres/` is applied once, in the order of its number and in a
transaction of its own, under a lock that only one process at a time can have.
"""

import contextlib
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from api_server.errors import SetupError, StoreAwayError
from api_server.stores import postgres
from api_server.stores.postgres import CONNECT_SECONDS

FOLDER = Path(__file__).resolve().parent.parent.parent / "init-scripts/postgres"
LOCK = 7264127402
"""Of this stack's migrations, among the advisory locks of the database."""

LOCK_SECONDS = 60
STATEMENT_SECONDS = 300
FAULTS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)

_TABLE = """
create table if not exists schema_migrations (
    version integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
)
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Migration:
    """One file: `0003_jobs.sql` has the version 3."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """All there are, by version. Raises `SetupError` for a number that is missing or doubled."""
    found = [
        Migration(int(path.name[:4]), path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    ]
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise SetupError(f"{folder}: migrations must be numbered 0001, 0002, ... without a gap.")
    return found


async def migrate(url: str, folder: Path = FOLDER) -> list[str]:
    """Apply what is missing; returns the names of what was applied.

    Raises `StoreAwayError` where nobody answers, `SetupError` where the database lets us not in, or
    was made by other files.
    """
    wanted = migrations(folder)
    try:
        connection = await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS
        )
    except asyncpg.ClientConfigurationError as exc:
        raise SetupError(
            "POSTGRES_URL cannot be read. It must be as postgresql://user:password@host:5432/name, "
            "with special characters as %40 for @."
        ) from exc
    except postgres.FAULTS as exc:
        raise StoreAwayError(
            f"PostgreSQL does not answer at POSTGRES_URL ({type(exc).__name__}). Start it, or "
            "correct the address."
        ) from exc
    except FAULTS as exc:
        raise SetupError(
            f"PostgreSQL refuses POSTGRES_URL ({type(exc).__name__}). Correct the user, the "
            "password or the database in it."
        ) from exc
    try:
        await connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'")
        await connection.execute("select pg_advisory_lock($1)", LOCK)
        await connection.execute(_TABLE)
        rows = await connection.fetch("select version, sha256 from schema_migrations")
        applied = {row["version"]: row["sha256"] for row in rows}
        missing = [each for each in wanted if _is_missing(each, applied)]
        for each in missing:
            await _apply(connection, each)
        return [each.name for each in missing]
    except FAULTS as exc:
        reason = str(exc) or type(exc).__name__
        raise SetupError(f"The database could not be brought up to date: {reason}") from exc
    finally:
        with contextlib.suppress(*FAULTS):  # it is terminated, then
            await connection.close(timeout=CONNECT_SECONDS)


def _is_missing(migration: Migration, applied: Mapping[int, str]) -> bool:
    """Raises `SetupError` for one that was applied and reads differently now."""
    sha256 = applied.get(migration.version, migration.sha256)
    if sha256 != migration.sha256:
        raise SetupError(
            f"{migration.name}.sql is not what this database was made with. Migrations are never "
            "edited: restore the file, and put the change into a new one."
        )
    return migration.version not in applied


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into schema_migrations (version, name, sha256) values ($1, $2, $3)",
            *(migration.version, migration.name, migration.sha256),
        )
    log.info("applied a migration", extra={"migration": migration.name})
