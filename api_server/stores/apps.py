"""Apps and their credentials in PostgreSQL. Secrets come in as SHA-256 and never leave again."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

import asyncpg

from api_server.errors import AppExistsError, AppNotFoundError, DependencyDownError
from api_server.schemas.apps import Policy
from api_server.stores.postgres import Connection, Postgres, Row, queries

T = TypeVar("T")
Kind = Literal["key", "app_code"]
Source = Literal["admin", "file"]

LOAD_SECONDS = 10.0
"""For reading all apps, of which there may be tens of thousands."""

ROWS_AT_ONCE = 500
"""Then others have their turn."""


@dataclass(frozen=True, slots=True)
class NewCredential:
    """What is kept of a secret: its digest, and a few characters to tell it from others."""

    id: str
    kind: Kind
    digest: bytes
    hint: str


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A credential as the operator sees it."""

    id: str
    kind: Kind
    hint: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AppRecord:
    """An app as the operator sees it, revoked or not."""

    id: str
    name: str
    policy: Policy
    source: Source
    created_at: datetime
    updated_at: datetime
    revoked_at: datetime | None
    credentials: Sequence[CredentialRecord]


@dataclass(frozen=True, slots=True)
class AppRow:
    """An app as the directory reads it; `policy` is JSON."""

    id: str
    name: str
    policy: str
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A credential as the directory reads it; `expires_at` in Unix seconds."""

    id: str
    app_id: str
    kind: Kind
    digest: bytes
    hint: str
    expires_at: float | None = None
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed up to the change of that number; `is_whole` where it is all that there is."""

    change: int
    apps: Sequence[AppRow]
    credentials: Sequence[CredentialRow]
    is_whole: bool


class AppStore:
    """Every method raises `DependencyDownError` where PostgreSQL, or its tables, are not there."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._sql = queries("apps")

    async def last_change(self) -> int:
        """The number of the newest change: cheap, to be asked often."""
        try:
            row = await self._postgres.fetchrow(self._sql["last_change"])
        except asyncpg.UndefinedTableError as exc:
            raise _no_tables() from exc
        return int(row["change"]) if row is not None else 0

    async def changes_since(self, known: int | None) -> Changes:
        """What changed after that number; everything for None, or where a row was deleted."""

        async def read(connection: Connection) -> Changes:
            last = await connection.fetchrow(self._sql["last_change"])
            change, deletion = (last["change"], last["deletion"]) if last is not None else (0, 0)
            # A lower number than the known one: the database is an older one, from a backup.
            is_whole = known is None or not deletion <= known <= change
            since = -1 if is_whole else known
            # Credentials first: who sees one sees its app as well.
            rows = connection.cursor(self._sql["credentials_since"], since, prefetch=ROWS_AT_ONCE)
            credentials = [_credential_row(row) async for row in rows]
            rows = connection.cursor(self._sql["apps_since"], since, prefetch=ROWS_AT_ONCE)
            apps = [AppRow(**row) async for row in rows]
            return Changes(change, apps, credentials, is_whole)

        try:
            return await self._postgres.transaction(read, budget_seconds=LOAD_SECONDS)
        except asyncpg.UndefinedTableError as exc:
            raise _no_tables() from exc

    async def create(
        self, app_id: str, name: str, policy: Policy, credentials: Iterable[NewCredential]
    ) -> None:
        """Add an app. Raises `AppExistsError` where its name is taken."""

        async def add(connection: Connection) -> None:
            text = policy.model_dump_json()
            await connection.execute(self._sql["add_app"], app_id, name, text, "admin")
            for each in credentials:
                await self._add(connection, app_id, each)

        try:
            await self._change(add)
        except asyncpg.UniqueViolationError as exc:
            raise AppExistsError(
                f"There is an app called {name!r} already, perhaps a revoked one. Choose another "
                "name.",
                param="name",
            ) from exc

    async def apps(self) -> list[AppRecord]:
        """All of them, the oldest first."""

        async def read(connection: Connection) -> list[AppRecord]:
            rows = await connection.fetch(self._sql["list_apps"])
            return await self._with_credentials(connection, rows)

        return await self._change(read)

    async def find(self, name_or_id: str) -> AppRecord:
        """One app. Raises `AppNotFoundError`."""

        async def read(connection: Connection) -> AppRecord:
            row = await self._find(connection, name_or_id)
            return (await self._with_credentials(connection, [row]))[0]

        return await self._change(read)

    async def rotate(self, name_or_id: str, new: NewCredential, *, grace_seconds: float) -> None:
        """Give an app a new credential; those of the same kind end now, or after the grace."""

        async def change(connection: Connection) -> None:
            row = await self._find(connection, name_or_id, is_live=True)
            await self._add(connection, row["id"], new)
            await connection.execute(
                self._sql["end_credentials"], row["id"], new.kind, grace_seconds, [new.id]
            )

        await self._change(change)

    async def revoke_credential(self, name_or_id: str, id_or_hint: str) -> None:
        """End one credential now. Raises `AppNotFoundError` where the app has none like that."""

        async def change(connection: Connection) -> None:
            row = await self._find(connection, name_or_id)
            done = "UPDATE 0"
            if "\0" not in id_or_hint:
                done = await connection.execute(
                    self._sql["revoke_credential"], row["id"], id_or_hint.strip()
                )
            if done == "UPDATE 0":
                raise AppNotFoundError(
                    f"The app {row['name']!r} has no valid credential with that id or hint."
                )

        await self._change(change)

    async def revoke(self, name_or_id: str) -> None:
        """End an app with all its credentials. It stays in the tables, and so does what it used."""

        async def change(connection: Connection) -> None:
            row = await self._find(connection, name_or_id)
            await connection.execute(self._sql["revoke_app"], row["id"])
            await connection.execute(self._sql["revoke_all_credentials"], row["id"])

        await self._change(change)

    async def set_policy(self, name_or_id: str, policy: Policy) -> None:
        """Replace what an app may do."""

        async def change(connection: Connection) -> None:
            row = await self._find(connection, name_or_id, is_live=True)
            await connection.execute(self._sql["set_policy"], row["id"], policy.model_dump_json())

        await self._change(change)

    async def _change(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._postgres.transaction(work)
        except asyncpg.UndefinedTableError as exc:
            raise _no_tables() from exc

    async def _add(self, connection: Connection, app_id: str, new: NewCredential) -> None:
        await connection.execute(
            self._sql["add_credential"], new.id, app_id, new.kind, new.digest, new.hint
        )

    async def _find(self, connection: Connection, name_or_id: str, *, is_live: bool = False) -> Row:
        # PostgreSQL's text has no room for a NUL; such a name cannot exist.
        known = "\0" not in name_or_id
        row = await connection.fetchrow(self._sql["find_app"], name_or_id) if known else None
        if row is None:
            raise AppNotFoundError(f"There is no app {name_or_id[:64]!r}.")
        if is_live and row["revoked_at"] is not None:
            raise AppNotFoundError(f"The app {row['name']!r} is revoked.")
        return row

    async def _with_credentials(
        self, connection: Connection, rows: Sequence[Row]
    ) -> list[AppRecord]:
        ids = [row["id"] for row in rows]
        of_app: dict[str, list[CredentialRecord]] = {id_: [] for id_ in ids}
        for row in await connection.fetch(self._sql["credentials_of"], ids):
            of_app[row["app_id"]].append(
                CredentialRecord(
                    row["id"],
                    row["kind"],
                    row["hint"],
                    row["created_at"],
                    row["expires_at"],
                    row["revoked_at"],
                )
            )
        return [
            AppRecord(
                id=row["id"],
                name=row["name"],
                policy=Policy.model_validate_json(row["policy"]),
                source=row["source"],
                created_at=row["created_at"],
                updated_at=row["updated_at"],
                revoked_at=row["revoked_at"],
                credentials=of_app[row["id"]],
            )
            for row in rows
        ]


def _credential_row(row: Row) -> CredentialRow:
    return CredentialRow(
        row["id"],
        row["app_id"],
        row["kind"],
        row["hash"],
        row["hint"],
        row["expires_at"],
        row["is_revoked"],
    )


def _no_tables() -> DependencyDownError:
    return DependencyDownError("postgres with its tables (python -m api_server migrate)")
