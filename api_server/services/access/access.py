"""All that knows who may come in, and keeps up to date. Started and ended as one."""

import asyncio
from collections.abc import Sequence

from api_server.schemas.app_codes import SeededApp
from api_server.services.access.authentication import Authentication, NoAuthentication
from api_server.services.access.directory import Directory
from api_server.services.access.published_keys import PublishedKeys
from api_server.services.access.seeding import seed_until_done
from api_server.services.schema import Schema
from api_server.stores.app_seeds import AppSeeds


class Access:
    """`schema` and `seeds` are None where there is no database."""

    def __init__(
        self,
        authentication: Authentication | NoAuthentication,
        directory: Directory,
        *,
        schema: Schema | None = None,
        seeds: AppSeeds | None = None,
        seeded: Sequence[SeededApp] | None = None,
        published: PublishedKeys | None = None,
    ) -> None:
        self.authentication = authentication
        self.directory = directory
        self.schema = schema
        self._seeds = seeds
        self._seeded = seeded
        self._published = published
        self._seeding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Tables, then apps; seconds at most, and what is not done by then goes on behind."""
        if self._published is not None:
            await self._published.start()
        if self.schema is not None:
            await self.schema.start()
            if self._seeds is not None and self._seeded is not None:
                work = seed_until_done(self._seeds, self._seeded, self.schema.is_current)
                self._seeding = asyncio.create_task(work)
                if self.schema.is_current.is_set():
                    await asyncio.wait({self._seeding}, timeout=5.0)
        await self.directory.start()

    async def aclose(self) -> None:
        if self._seeding is not None:
            self._seeding.cancel()
            await asyncio.wait({self._seeding}, timeout=1.0)
        await self.directory.aclose()
        if self.schema is not None:
            await self.schema.aclose()
        if self._published is not None:
            await self._published.aclose()
