"""The guarded connections to PostgreSQL and Redis, against real servers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import asyncpg
import pytest

from api_server.errors import DependencyDownError, RateLimitedError, SetupError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import App, Caller, Policy
from api_server.services.quotas.quotas import Quotas
from api_server.stores.limits import RedisLimits
from api_server.stores.migrations import LOCK, migrate
from api_server.stores.postgres import Postgres
from api_server.stores.redis import Redis
from tests.stores import PostgresServer, running_postgres, running_redis


async def until_it_works(ask: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await ask()
                return
            except DependencyDownError:
                await asyncio.sleep(0.1)


async def test_postgres_answers(postgres_url: str) -> None:
    postgres = Postgres(postgres_url)
    assert (await postgres.fetchrow("select 1 + $1::int as sum", 2))["sum"] == 3  # type: ignore[index]
    await postgres.aclose()


async def test_an_error_of_the_query_is_no_outage(postgres_url: str) -> None:
    postgres = Postgres(postgres_url)
    for _ in range(5):
        with pytest.raises(asyncpg.UndefinedTableError):
            await postgres.fetch("select * from nowhere")
    assert postgres.dependency.is_up
    await postgres.aclose()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


async def test_a_postgres_that_hangs_is_left_alone_and_taken_back(
    own_postgres: PostgresServer,
) -> None:
    postgres = Postgres(own_postgres.url("postgres"))
    await postgres.fetch("select 1")
    own_postgres.pause()
    try:
        for _ in range(3):
            with pytest.raises(DependencyDownError):
                await postgres.fetch("select 1", budget_seconds=0.1)
        assert not postgres.dependency.is_up
        began = time.monotonic()
        with pytest.raises(DependencyDownError):
            await postgres.fetch("select 1")
        assert time.monotonic() - began < 0.1
    finally:
        own_postgres.resume()
    await until_it_works(lambda: postgres.fetch("select 1"))
    await postgres.aclose()


async def test_redis_answers_and_runs_scripts(redis_url: str) -> None:
    redis = Redis(redis_url)
    await redis.use(lambda client: client.set("a", "1"))
    assert await redis.use(lambda client: client.get("a")) == b"1"
    await redis.aclose()


async def test_a_redis_that_hangs_costs_its_budget_and_no_more() -> None:
    with running_redis() as server:
        redis = Redis(server.url)
        await redis.use(lambda client: client.ping())
        server.pause()
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(DependencyDownError):
                await redis.use(lambda client: client.ping())
        assert not redis.dependency.is_up
        assert time.monotonic() - began < 1
        server.resume()
        await until_it_works(lambda: redis.use(lambda client: client.ping()))
        await redis.aclose()


async def test_a_redis_without_memory_is_as_good_as_away() -> None:
    with running_redis() as server:
        redis = Redis(server.url)
        await redis.use(lambda client: client.config_set("maxmemory", "1"))
        for _ in range(3):
            with pytest.raises(DependencyDownError):
                await redis.use(lambda client: client.set("a", "1"))
        assert not redis.dependency.is_up
        await redis.aclose()


async def test_limits_beyond_redis_memory_are_those_of_each_process() -> None:
    caller = Caller(App("app_1", "a", Policy(rate_limits=["2/hour"])))
    with running_redis() as server:
        redis = Redis(server.url)
        quotas = Quotas(RedisLimits(redis), Metrics([], Numbers()))
        await quotas.start()
        await quotas.reserve(caller, "m", 1)
        await redis.use(lambda client: client.config_set("maxmemory", "1"))
        await until_it_works(lambda: quotas.reserve(caller, "m", 1))
        with pytest.raises(RateLimitedError):
            await quotas.reserve(caller, "m", 1)
        async with asyncio.timeout(5):
            while not quotas.is_degraded:
                await asyncio.sleep(0.05)
        await quotas.aclose()
        await redis.aclose()


async def test_migrations_that_cannot_go_on_say_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_server.stores.migrations.STATEMENT_SECONDS", 0.3)
    other = await asyncpg.connect(postgres_url)
    await other.execute("select pg_advisory_lock($1)", LOCK)
    try:
        with pytest.raises(SetupError, match="brought up to date: TimeoutError"):
            await migrate(postgres_url)
    finally:
        await other.close()
    assert await migrate(postgres_url) == []
