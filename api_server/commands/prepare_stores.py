"""`python -m api_server prepare-stores`: makes what is missing of tables, buckets, collections, and
the role that Grafana reads with.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from pydantic import SecretStr

from api_server.errors import SetupError, StoreAwayError
from api_server.settings import Settings
from api_server.settings.store_layout import load_buckets, load_collections
from api_server.stores.migrations import migrate, migrations
from api_server.stores.objects import Objects
from api_server.stores.readers import ROLE, let_read
from api_server.stores.vector_setup import VectorSetup

T = TypeVar("T")

EXPLANATION = "make the tables, buckets and collections of init-scripts/ that are missing"
WAIT_SECONDS = 60.0
"""For servers that are still starting, all together."""

PAUSE_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""
    del parser


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Raises `SetupError` where that cannot be; what was made until then stays."""
    del arguments
    asyncio.run(prepare(settings, Patience()))
    return 0


class Patience:
    """Waits for stores that do not answer yet, until there was waiting enough."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._until = time.monotonic() + wait_seconds

    async def with_it(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work again and again while its store is away, and say so once."""
        is_told = False
        while True:
            try:
                return await work()
            except StoreAwayError as exc:
                if time.monotonic() >= self._until:
                    raise
                if not is_told:
                    print(f"{exc} Waiting, {self._wait_seconds:g} s at most.", file=sys.stderr)
                    is_told = True
            await asyncio.sleep(PAUSE_SECONDS)


async def prepare(settings: Settings, patience: Patience) -> None:
    """Each store in turn, and a line for each. One without an address is left out."""
    print(f"PostgreSQL: {await _tables(settings, patience)}")
    print(f"object store: {await _buckets(settings, patience)}")
    print(f"Qdrant: {await _collections(settings, patience)}")


async def _tables(settings: Settings, patience: Patience) -> str:
    url = settings.postgres_url
    if url is None:
        return _left_out("POSTGRES_URL")
    applied = await patience.with_it(partial(migrate, url))
    return f"{_made(applied, [each.name for each in migrations()])}{await _reader(settings, url)}"


async def _reader(settings: Settings, url: str) -> str:
    """The role of the panels, where it has a password."""
    password = settings.environment.grafana_postgres_password
    if password is None:
        return ""
    is_new = await let_read(url, password.get_secret_value())
    return f" The role {ROLE} was made." if is_new else f" The role {ROLE} was there."


async def _buckets(settings: Settings, patience: Patience) -> str:
    environment = settings.environment
    if environment.s3_url is None:
        return _left_out("S3_URL")
    access_key, secret_key = _text(environment.s3_access_key), _text(environment.s3_secret_key)
    if access_key is None or secret_key is None:
        raise SetupError("S3_URL needs S3_ACCESS_KEY and S3_SECRET_KEY: set both.")
    names = load_buckets().names()
    objects = Objects(environment.s3_url, access_key, secret_key)
    try:
        made = [
            name for name in names if await patience.with_it(partial(objects.ensure_bucket, name))
        ]
    finally:
        await objects.aclose()
    return _made(made, names)


async def _collections(settings: Settings, patience: Patience) -> str:
    environment = settings.environment
    if environment.qdrant_url is None:
        return _left_out("QDRANT_URL")
    wanted = load_collections().chunks
    vectors = VectorSetup(environment.qdrant_url, _text(environment.qdrant_api_key))
    try:
        made = await patience.with_it(partial(vectors.ensure_collection, wanted))
    finally:
        await vectors.aclose()
    return _made(made, [wanted.name, *(f"{wanted.name}.{key}" for key in wanted.indexes)])


def _made(made: list[str], wanted: list[str]) -> str:
    """What was made and what was there, in a sentence. Pure."""
    there = [name for name in wanted if name not in made]
    parts = [f"made {', '.join(made)}"] if made else []
    parts += [f"{', '.join(there)} {'was' if len(there) == 1 else 'were'} there"] if there else []
    return f"{'; '.join(parts)}."


def _left_out(variable: str) -> str:
    return f"left out, as {variable} is not set."


def _text(key: SecretStr | None) -> str | None:
    return key.get_secret_value() if key is not None else None
