"""PostgreSQL and Redis for a gateway under measurement, on the harness's core, and an app's key.

The app has limits of every kind, too high to be reached: what is measured is what it takes to
count.
"""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from api_server.errors import SetupError
from api_server.local import postgres_cluster, redis_server
from api_server.local.data_dir import remove_cluster
from api_server.local.process import Command, free_port
from api_server.local.store_programs import find_postgres, find_redis
from api_server.local.terminal import TerminalSay
from api_server.local.unprivileged import unprivileged_user
from api_server.schemas.apps import Policy
from api_server.services.access.secrets import credential, new_id
from api_server.settings import load_environment
from api_server.stores.apps import AppStore
from api_server.stores.migrations import migrate
from api_server.stores.postgres import Postgres
from benchmarks.exchanges import KEY
from benchmarks.processes import Running, TargetError, clean_environment, running

START_SECONDS = 30.0
POLICY = Policy(
    rate_limits=["900000000/hour", "100000000/minute"],
    tokens_per_minute=1_000_000_000,
    concurrent_requests=100_000,
)


@asynccontextmanager
async def stores(core: int, folder: Path) -> AsyncIterator[dict[str, str]]:
    """The environment variables of a gateway that uses them. Raises `TargetError`."""
    user = unprivileged_user()
    say = TerminalSay(sys.stderr)
    cache_home = load_environment().cache_home
    folder = folder / f"stores-{secrets.token_hex(4)}"
    folder.mkdir()
    password = secrets.token_hex(16)
    try:
        programs = await find_postgres(cache_home=cache_home, say=say, user=user)
        redis = await find_redis(cache_home=cache_home, say=say)
        place = postgres_cluster.cluster_folder(folder, user)
        cluster = postgres_cluster.Cluster(place, user, password)
        await postgres_cluster.make_cluster(programs, cluster, is_synced=False)
    except SetupError as exc:
        raise TargetError(str(exc)) from exc
    port, redis_port = free_port(), free_port()
    config = folder / "redis.conf"
    config.write_text(redis_server.configuration(redis_port, password, folder))
    environment = clean_environment()
    arguments = postgres_cluster.server_arguments(programs, place, port)
    log = folder / "postgres.log"
    redis_arguments = redis_server.server_arguments(redis, config)
    try:
        async with (
            running(Command("PostgreSQL", arguments, environment, log), core, user) as first,
            running(
                Command("Redis", redis_arguments, environment, folder / "redis.log"), core
            ) as second,
        ):
            await _until(first, lambda: postgres_cluster.answers(port))
            await _until(second, lambda: redis_server.answers(redis_port, password))
            yield {
                "POSTGRES_URL": cluster.url(port),
                "REDIS_URL": redis_server.url(redis_port, password),
                "AUTH": "on",
                "DEVELOPMENT_KEY": KEY,
            }
    finally:
        remove_cluster(place)


async def _make_app(url: str) -> None:
    await migrate(url)
    postgres = Postgres(url)
    try:
        keys = [credential(KEY, "key")]
        await AppStore(postgres).create(new_id("app"), "bench", POLICY, keys)
    finally:
        await postgres.aclose()


async def _until(program: Running, claim: Callable[[], Awaitable[bool]]) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await claim():
        program.raise_if_ended()
        if asyncio.get_running_loop().time() > deadline:
            raise TargetError(f"{program.program.name} does not answer")
        await asyncio.sleep(0.1)
