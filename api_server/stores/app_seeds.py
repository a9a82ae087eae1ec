"""Brings the apps that come from a file to what the file says, in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from api_server.errors import DependencyDownError
from api_server.schemas.apps import Policy
from api_server.stores.apps import NewCredential
from api_server.stores.postgres import Connection, Postgres, Row, queries

SEED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WantedApp:
    """An app as the file has it. `id` is for the case that it is new."""

    id: str
    name: str
    policy: Policy
    code: NewCredential


@dataclass(slots=True)
class Seeded:
    """What was done, by names of apps; `refused` has a sentence for each."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class AppSeeds:
    """Touches apps with the source `file` alone."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._sql = queries("apps")

    async def seed(self, wanted: Sequence[WantedApp]) -> Seeded:
        """Do it. What is right already is not written again. Raises `DependencyDownError`."""

        async def work(connection: Connection) -> Seeded:
            await connection.execute(self._sql["lock_seeds"])  # processes start together
            return await self._seed(connection, wanted)

        try:
            return await self._postgres.transaction(work, budget_seconds=SEED_SECONDS)
        except asyncpg.UndefinedTableError as exc:
            raise DependencyDownError("postgres with its tables") from exc

    async def _seed(self, connection: Connection, wanted: Sequence[WantedApp]) -> Seeded:
        done = Seeded()
        left = {row["id"]: row for row in await connection.fetch(self._sql["file_apps"])}
        names = {row["name"] for row in await connection.fetch(self._sql["names_of_others"])}
        by_code = {code: row["id"] for row in left.values() for code in row["codes"]}
        by_name = {row["name"]: row["id"] for row in left.values()}
        for app in wanted:
            if app.name in names:
                done.refused.append(f"the name {app.name!r} belongs to an app made otherwise")
                continue
            id_ = by_code.get(app.code.digest) or by_name.get(app.name)
            owner = await connection.fetchval(self._sql["owner_of_hash"], app.code.digest)
            if owner is not None and owner != id_:
                done.refused.append(f"the code of {app.name!r} belongs to another app")
                continue
            row = left.pop(id_, None) if id_ is not None else None
            if row is None:
                await self._create(connection, app)
                done.created.append(app.name)
            elif await self._update(connection, row, app, is_code_known=owner is not None):
                done.updated.append(app.name)
        for row in left.values():
            if not row["is_revoked"]:
                await connection.execute(self._sql["revoke_app"], row["id"])
                await connection.execute(self._sql["revoke_all_credentials"], row["id"])
                done.revoked.append(row["name"])
        return done

    async def _create(self, connection: Connection, app: WantedApp) -> None:
        policy = app.policy.model_dump_json()
        await connection.execute(self._sql["add_app"], app.id, app.name, policy, "file")
        await self._add(connection, app.id, app.code)

    async def _update(
        self, connection: Connection, row: Row, app: WantedApp, *, is_code_known: bool
    ) -> bool:
        """Whether there was anything to do."""
        id_, codes = row["id"], set(row["codes"])
        is_new = False
        if row["name"] != app.name:
            await connection.execute(self._sql["rename_app"], id_, app.name)
            is_new = True
        if row["is_revoked"] or Policy.model_validate_json(row["policy"]) != app.policy:
            policy = app.policy.model_dump_json()
            await connection.execute(self._sql["take_back_app"], id_, policy)
            is_new = True
        if app.code.digest not in codes:
            if is_code_known:
                await connection.execute(self._sql["take_back_hash"], id_, app.code.digest)
            else:
                await self._add(connection, id_, app.code)
            is_new = True
        for old in codes - {app.code.digest}:
            await connection.execute(self._sql["revoke_hash"], id_, old)
            is_new = True
        return is_new

    async def _add(self, connection: Connection, app_id: str, new: NewCredential) -> None:
        await connection.execute(
            self._sql["add_credential"], new.id, app_id, new.kind, new.digest, new.hint
        )
