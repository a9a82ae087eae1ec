"""Objects that belong to nothing: being written, or to be removed. docs/decisions/0014.

What is announced here and never tied is removed by the sweep; so is what is doomed, at once.
"""

from collections.abc import Sequence

from api_server.stores.postgres import Connection, Postgres, queries

_SQL = queries("loose_objects")


class LooseObjects:
    """Methods raise `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def announce(self, app_id: str, name: str) -> None:
        """Before its first byte is written."""
        await self._postgres.execute(_SQL["announce"], name, app_id)

    async def renew(self, names: Sequence[str]) -> None:
        """They are still wanted."""
        await self._postgres.execute(_SQL["renew"], list(names))

    async def tie(self, connection: Connection, names: Sequence[str]) -> bool:
        """As a part of the transaction that makes them parts of something.

        False where one was given up since: then they must not be.
        """
        tied = await connection.fetch(_SQL["tie"], list(names))
        return len(tied) == len(names)

    async def doom(self, names: Sequence[str]) -> None:
        """Those of them that are still loose are removed soon; nothing may be writing them."""
        await self._postgres.execute(_SQL["doom"], list(names))

    async def doom_again(self, app_id: str, names: Sequence[str]) -> None:
        """The same of what was given up while it was written."""
        await self._postgres.execute(_SQL["doom_again"], list(names), app_id)

    async def doom_old(self, older_seconds: float, count: int) -> None:
        """Give up what was announced and not renewed for so long."""
        await self._postgres.execute(_SQL["doom_old"], older_seconds, count)

    async def doomed(self, count: int) -> list[str]:
        """Names of objects that are to be removed now."""
        return [row["object"] for row in await self._postgres.fetch(_SQL["doomed"], count)]

    async def put_off(self, names: Sequence[str], seconds: float) -> None:
        """They could not be removed: `doomed` tells of them again after so long."""
        await self._postgres.execute(_SQL["put_off"], list(names), seconds)

    async def forget(self, names: Sequence[str]) -> None:
        """They are removed."""
        await self._postgres.execute(_SQL["forget"], list(names))
