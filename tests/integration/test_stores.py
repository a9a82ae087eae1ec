"""The guarded connections to PostgreSQL and Redis, against real servers."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from api_server.errors import DependencyDownError, RateLimitedError, SetupError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import App, Caller, Policy
from api_server.services.quotas.quotas import Quotas
from api_server.stores.limits import RedisLimits
from api_server.stores.migrations import LOCK, migrate
from api_server.stores.paging import in_order
from api_server.stores.postgres import SQL, Connection, Postgres, queries
from api_server.stores.redis import Redis
from tests.slow_proxy import slow_proxy
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


async def test_a_transaction_that_stands_still_loses_its_locks(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_server.stores.postgres.IDLE_IN_TRANSACTION_SECONDS", 1)
    stopped, other = Postgres(postgres_url), Postgres(postgres_url)
    await stopped.fetch("select 1")  # also where the connection was lent before

    async def hold(connection: Connection) -> None:
        await connection.execute("lock table apps in access exclusive mode")
        await asyncio.sleep(2)  # as if the process were stopped
        await connection.execute("select 1")

    holding = asyncio.create_task(stopped.transaction(hold, budget_seconds=10))
    await asyncio.sleep(0.2)
    await other.fetch("select count(*) from apps", budget_seconds=5)
    assert not holding.done()
    with pytest.raises((DependencyDownError, asyncpg.PostgresError)):
        await holding
    await stopped.aclose()
    await other.aclose()


async def test_transactions_that_wait_for_each_other_are_both_done(postgres_url: str) -> None:
    both = asyncio.Barrier(2)
    tries = 0

    async def add(postgres: Postgres, first: int, second: int) -> None:
        async def work(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            is_new = tries <= 2
            await connection.execute("update pairs set n = n + 1 where id = $1", first)
            if is_new:
                await both.wait()
            await connection.execute("update pairs set n = n + 1 where id = $1", second)

        await postgres.transaction(work, budget_seconds=20)

    async with contextlib.aclosing(Postgres(postgres_url)) as postgres:
        await postgres.execute(
            "create table pairs as select id, 0 as n from generate_series(1, 2) as id",
            budget_seconds=20,
        )
        await asyncio.gather(add(postgres, 1, 2), add(postgres, 2, 1))
        assert [row["n"] for row in await postgres.fetch("select n from pairs")] == [2, 2]
    assert tries > 2


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


async def test_a_crowd_that_waits_for_connections_is_no_outage(postgres_url: str) -> None:
    """The server answers all the while: only those who waited too long are turned away."""
    postgres = Postgres(postgres_url, pool_size=2)
    crowd = await asyncio.gather(
        *(postgres.fetch("select pg_sleep(0.15)", budget_seconds=0.5) for _ in range(30)),
        return_exceptions=True,
    )
    served = sum(isinstance(each, list) for each in crowd)
    assert 4 <= served < 30
    assert all(isinstance(each, list | DependencyDownError) for each in crowd)
    assert postgres.dependency.is_up
    assert await postgres.fetch("select 1")
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


async def test_connections_that_died_in_silence_are_given_up_together(
    own_postgres: PostgresServer,
) -> None:
    with slow_proxy(own_postgres.port) as proxy:
        url = own_postgres.url("postgres").replace(f":{own_postgres.port}/", f":{proxy.port}/")
        postgres = Postgres(url)
        await asyncio.gather(*(postgres.fetch("select pg_sleep(0.1)") for _ in range(8)))
        assert len(proxy.attempts) == 8
        proxy.strand()
        for _ in range(3):
            with pytest.raises(DependencyDownError):
                await postgres.fetch("select 1", budget_seconds=0.1)
        assert not postgres.dependency.is_up
        began = time.monotonic()
        await until_it_works(lambda: postgres.fetch("select 1"))
        assert time.monotonic() - began < 1.5, "the first trial finds a server that is there"
        await postgres.aclose()


async def test_redis_forgets_its_idle_connections_too() -> None:
    with running_redis() as server, slow_proxy(server.port) as proxy:
        redis = Redis(server.url.replace(f":{server.port}/", f":{proxy.port}/"))

        async def ping(budget_seconds: float = 0.25) -> None:
            await redis.use(lambda client: client.ping(), budget_seconds=budget_seconds)

        await asyncio.gather(*(ping(2) for _ in range(8)))
        proxy.strand()
        failed = await asyncio.gather(*(ping() for _ in range(3)), return_exceptions=True)
        assert {type(each) for each in failed} == {DependencyDownError}
        assert not redis.dependency.is_up
        began = time.monotonic()
        await until_it_works(ping)
        assert time.monotonic() - began < 1.5
        await asyncio.gather(*(ping() for _ in range(8)))
        await redis.aclose()


async def test_a_crowd_that_waits_for_connections_does_not_storm_a_server_that_left(
    own_postgres: PostgresServer,
) -> None:
    with slow_proxy(own_postgres.port) as proxy:
        url = own_postgres.url("postgres").replace(f":{own_postgres.port}/", f":{proxy.port}/")
        postgres = Postgres(url)
        proxy.set("refuse")
        calls = [postgres.fetch("select 1") for _ in range(200)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in failed} == {DependencyDownError}
        assert len(proxy.attempts) <= 4 * 8, "each of the pool is tried with TLS and without"
        await postgres.aclose()


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


async def test_pages_are_read_from_an_index_in_both_orders(postgres_url: str) -> None:
    """Nothing is sorted: a page costs the same in a list of any length."""
    lists = [
        (f"{file.stem}.{name}", query)
        for file in sorted(SQL.glob("*.sql"))
        for name, query in queries(file.stem).items()
        if name.endswith("_page")
    ]
    assert len(lists) == 8
    values: dict[str, Any] = {"text": "x", "timestamptz": datetime.now(UTC), "int8": 1}
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("set enable_seqscan = off; set enable_bitmapscan = off")
        for name, query in lists:
            for is_up, scan in ((True, "Index Scan using"), (False, "Index Scan Backward using")):
                asked = in_order(query, is_up=is_up)
                kinds = (await connection.prepare(asked)).get_parameters()
                given = [values[each.name] for each in kinds]
                rows = await connection.fetch(f"explain {asked}", *given)
                plan = "\n".join(row[0] for row in rows)
                assert scan in plan, (name, plan)
                assert "Sort" not in plan, (name, plan)
    finally:
        await connection.close()
