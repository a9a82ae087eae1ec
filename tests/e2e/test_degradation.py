"""The table of docs/degradation.md: PostgreSQL and Redis, each down, hanging, slow and flapping.

One gateway with keys and limits, seen from outside; its stores are real ones behind proxies.
"""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg
import httpx
import pytest
import pytest_asyncio

from api_server.services.access.managing import Issued
from api_server.stores.migrations import migrations
from tests.access import ADMIN, make_app
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.replicas import Replica, RunningGateway, running_gateway, running_replicas, until
from tests.slow_proxy import SlowProxy, slow_proxy
from tests.stores import PostgresServer, RedisServer, running_postgres, running_redis

pytestmark = pytest.mark.asyncio(loop_scope="module")

Service = Literal["postgres", "redis"]
Fault = Literal["down", "hanging", "slow", "flapping"]
FAULTS: tuple[Fault, ...] = ("down", "hanging", "slow", "flapping")

NORMAL_REQUESTS = 40
FAULT_SECONDS = 3.0
"""At least; and so long that the header was seen for a while."""

NOTICED_SECONDS = {"postgres": 6.0, "redis": 2.0}
AFTER_SECONDS = 1.0
"""From here on a fault may cost next to nothing."""

ADDED_SECONDS = 0.1
LEAST_NORMAL_SECONDS = 0.05
"""The p99 of a machine that does other things as well is not taken to be shorter."""

REFUSAL_SECONDS = 3.0
RECOVERY_SECONDS = 15.0
PACE_SECONDS = 0.02
MOST_ATTEMPTS = 10
"""New connections in any second of an outage, after its first one."""

CROWD = 16
POOLS = {"postgres": 8 + 2 + 2, "redis": 32}
"""What may be connected at once: the pool, and beside it who listens, makes tables, cancels."""

RATE_LIMIT = 20
TOKEN_LIMIT = 500
USED_TOKENS = 43
"""Of one request to the app with that limit: 3 of the prompt and 40 of the answer."""

ROOMY: dict[str, Any] = {
    "rate_limits": ["100000/hour"],
    "tokens_per_minute": 10_000_000,
    "concurrent_requests": 64,
    "request_types": {"chat": {}},
}


@dataclass(frozen=True)
class Seen:
    """One chat: when it began, how long it took, what came back."""

    request_id: str
    began: float
    seconds: float
    status: int
    degraded: str
    cache: str
    is_whole: bool


@dataclass
class Site:
    """A gateway and its stores."""

    gateway: RunningGateway
    http: httpx.AsyncClient
    replica: Replica
    postgres: PostgresServer
    redis: RedisServer
    proxies: Mapping[str, SlowProxy]
    url: str
    """Of the database, past the proxy."""

    steady: Issued
    normal_p99: float = 0.0
    ids: Iterator[int] = field(default_factory=itertools.count)

    async def chat(self, app: Issued, *, cache: str = "", **body: Any) -> Seen:
        request_id = f"degraded-{next(self.ids)}"
        headers = {"authorization": f"Bearer {app.key}", "x-request-id": request_id}
        if cache:
            headers["x-cache"] = cache
        told = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tokens": 5} | body
        began = time.monotonic()
        answer = await self.http.post("/v1/chat/completions", json=told, headers=headers)
        text = answer.text
        is_whole = answer.status_code == 200 and (
            text.endswith("data: [DONE]\n\n") if body.get("stream") else '"usage"' in text
        )
        return Seen(
            request_id,
            began,
            time.monotonic() - began,
            answer.status_code,
            answer.headers.get("x-degraded", ""),
            answer.headers.get("x-cache", ""),
            is_whole,
        )

    async def state(self, service: Service, state: str) -> float:
        metrics = await self.gateway.metrics()
        return metrics["llm_gateway_dependency_state", service, state]

    async def new_app(self, **policy: Any) -> Issued:
        """An app that the gateway knows already."""
        app = await make_app(self.url, f"app {next(self.ids)}", **policy)

        async def is_known() -> bool:
            return (await self.chat(app, model="nobody")).status == 404

        await until(is_known, 5, "the new app is known")
        return app

    async def begin(self, service: Service, fault: Fault) -> None:
        server = self.postgres if service == "postgres" else self.redis
        if fault == "down":
            self.proxies[service].set("refuse")
            await asyncio.to_thread(server.kill)
        elif fault == "hanging":
            server.pause()
        else:
            self.proxies[service].set("slow" if fault == "slow" else "flap")

    async def end(self, service: Service) -> None:
        server = self.postgres if service == "postgres" else self.redis
        if server.process is None:
            server.start()
            await asyncio.to_thread(server.wait)
        server.resume()
        self.proxies[service].set("pass")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("degradation")
    with (
        running_postgres() as postgres,
        running_redis() as redis,
        slow_proxy(postgres.port) as to_postgres,
        slow_proxy(redis.port) as to_redis,
        postgres.database() as url,
    ):
        variables = {
            "POSTGRES_URL": through(url, postgres.port, to_postgres),
            "REDIS_URL": through(redis.url, redis.port, to_redis),
        }
        steady = await make_app(url, "steady", **ROOMY)
        async with (
            running_replicas(1) as (replica,),
            guarded(folder, replica, variables) as (gateway, http),
        ):
            proxies = {"postgres": to_postgres, "redis": to_redis}
            site = Site(gateway, http, replica, postgres, redis, proxies, url, steady)
            await measure(site)
            yield site


def through(url: str, port: int, proxy: SlowProxy) -> str:
    assert f":{port}/" in url
    return url.replace(f":{port}/", f":{proxy.port}/")


@asynccontextmanager
async def guarded(
    folder: Path, replica: Replica, variables: Mapping[str, str]
) -> AsyncIterator[tuple[RunningGateway, httpx.AsyncClient]]:
    """A gateway that asks for keys, as in production."""
    told = {"ENVIRONMENT": "production", "AUTH": "on", "ADMIN_API_KEY": ADMIN}
    told |= {"DATA_DIR": str(folder / "data")} | dict(variables)
    async with (
        running_gateway(folder, {"m": [replica]}, variables=told) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20, verify=False) as http,
    ):
        yield gateway, http


async def measure(site: Site) -> None:
    """How long a chat takes when all is well."""
    await site.chat(site.steady)
    seen = [await site.chat(site.steady, **steady(number)) for number in range(NORMAL_REQUESTS)]
    assert [each.status for each in seen] == [200] * NORMAL_REQUESTS
    assert {each.degraded for each in seen} == {""}
    assert {each.cache for each in seen} == {"", "miss"}
    site.normal_p99 = p99(seen)


def steady(number: int) -> dict[str, Any]:
    """Plain and streamed in turn; some ask for the cache, which has never seen them."""
    body: dict[str, Any] = {"stream": number % 2 == 0}
    if number % 5 == 0:
        body |= {"cache": "use", "temperature": 0, "seed": time.monotonic_ns()}
    return body


def p99(seen: Sequence[Seen]) -> float:
    ordered = sorted(each.seconds for each in seen)
    return ordered[int(0.99 * (len(ordered) - 1))]


@asynccontextmanager
async def steady_chats(site: Site) -> AsyncIterator[list[Seen]]:
    """Chats without end, as long as this lasts."""
    seen: list[Seen] = []

    async def work() -> None:
        for number in itertools.count():
            seen.append(await site.chat(site.steady, **steady(number)))
            await asyncio.sleep(PACE_SECONDS)

    task = asyncio.create_task(work())
    try:
        yield seen
        assert not task.done(), "a chat has failed"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def well_afterwards(site: Site, service: Service) -> AsyncIterator[None]:
    """So that a test that failed leaves the next one a service that is there."""
    try:
        yield
    except BaseException:
        await site.end(service)
        raise


@dataclass(frozen=True)
class Limited:
    """Apps with limits of one kind each."""

    rate: Issued
    tokens: Issued
    places: Issued

    async def admitted(self, site: Site, requests: int) -> int:
        seen = [await site.chat(self.rate) for _ in range(requests)]
        assert {each.status for each in seen} <= {200, 429}
        return sum(each.status == 200 for each in seen)

    async def check_tokens_and_places(self, site: Site) -> None:
        """Both are as tight as ever."""
        body: dict[str, Any] = {"tokens": USED_TOKENS - 3, "max_tokens": USED_TOKENS - 3}
        seen = [await site.chat(self.tokens, **body) for _ in range(16)]
        used = sum(each.status == 200 for each in seen) * USED_TOKENS
        assert TOKEN_LIMIT / 2 < used <= TOKEN_LIMIT
        chats = (site.chat(self.places, first_pause=0.3) for _ in range(6))
        statuses = Counter(each.status for each in await asyncio.gather(*chats))
        assert statuses == {200: 2, 429: 4}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("service", ["redis", "postgres"])
async def test_the_table(site: Site, service: Service, fault: Fault) -> None:
    limited = Limited(
        rate=await site.new_app(rate_limits=[f"{RATE_LIMIT}/minute"]),
        tokens=await site.new_app(tokens_per_minute=TOKEN_LIMIT),
        places=await site.new_app(concurrent_requests=2),
    )
    proxy = site.proxies[service]
    admitted = await limited.admitted(site, 5)
    async with well_afterwards(site, service), steady_chats(site) as seen:
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await site.begin(service, fault)
        refusing = asyncio.create_task(check_stateful_routes(site, service, fault))
        await until(
            lambda: header_names(seen, service), NOTICED_SECONDS[service], "x-degraded is there"
        )
        noticed = time.monotonic() - began
        if fault != "flapping":
            assert await site.state(service, "down") == 1
            assert await site.state(service, "up") == 0
        if service == "redis":
            admitted += await limited.admitted(site, RATE_LIMIT)
            await limited.check_tokens_and_places(site)
        await refusing
        await asyncio.sleep(max(0.0, began + FAULT_SECONDS - time.monotonic()))
        if fault != "flapping":
            assert seen[-1].degraded == service
        if service == "redis" and fault != "flapping":
            cached = await site.chat(site.steady, cache="use", temperature=0)
            assert (cached.status, cached.cache) == (200, "bypass")
        most = proxy.most_attempts(began + AFTER_SECONDS, time.monotonic())
        first = proxy.most_attempts(began, began + AFTER_SECONDS)
        ending = time.monotonic()
        await site.end(service)
        ended = time.monotonic()
        crowd = asyncio.create_task(crowd_of_pollers(site))

        async def is_over() -> bool:
            return await site.state(service, "up") == 1 and seen[-1].degraded == ""

        await until(is_over, RECOVERY_SECONDS, "the fault is over for the gateway too")
        recovered = time.monotonic() - ended
        await asyncio.sleep(0.5)
        crowd.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await crowd
        admitted += await limited.admitted(site, 5)
    after_it = proxy.most_attempts(ended, time.monotonic())
    whole = [each for each in seen if each.began < ended]
    during = [each for each in whole if began + AFTER_SECONDS < each.began < ending]
    print(
        f"\n{service} {fault}: normal p99 {1000 * site.normal_p99:.0f} ms, in it "
        f"{1000 * p99(during):.0f} ms of {len(during)} (longest of all "
        f"{1000 * max(each.seconds for each in seen):.0f}); noticed after {noticed:.2f} s, over "
        f"after {recovered:.2f} s; {admitted} of {RATE_LIMIT} admitted; "
        f"connections: {first}, then at most {most} a second, {after_it} after it"
    )
    assert Counter(each.status for each in seen) == {200: len(seen)}
    assert all(each.is_whole for each in seen)
    assert len(during) >= 20
    assert p99(during) <= max(site.normal_p99, LEAST_NORMAL_SECONDS) + ADDED_SECONDS
    assert RATE_LIMIT / 2 < admitted <= RATE_LIMIT or service == "postgres"
    assert first <= POOLS[service]
    assert most <= (MOST_ATTEMPTS if fault != "flapping" else POOLS[service])
    assert after_it <= POOLS[service]
    await check_rows(site, seen)


async def header_names(seen: Sequence[Seen], service: Service) -> bool:
    return any(each.degraded == service for each in seen[-5:])


async def crowd_of_pollers(site: Site) -> None:
    """Many who ask for jobs all at the same time, again and again."""
    while True:
        calls = (site.http.get("/get_request/job_that-is-not-there") for _ in range(CROWD))
        for answer in await asyncio.gather(*calls):
            assert answer.status_code in {404, 503}
        await asyncio.sleep(0.2)


async def check_stateful_routes(site: Site, service: Service, fault: Fault) -> None:
    """Without PostgreSQL they say so, in time and in their own words; they do not need Redis."""
    admin = {"authorization": f"Bearer {ADMIN}"}
    job = {"app_code": site.steady.app_code, "request_type": "chat", "request": "hi"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/admin/apps", {"headers": admin}),
        ("GET", "/admin/usage", {"headers": admin}),
        ("GET", "/get_request/job_that-is-not-there", {}),
        ("POST", "/ai_request", {"json": job}),
    ]

    async def call(method: str, path: str, options: dict[str, Any]) -> None:
        began = time.monotonic()
        answer = await site.http.request(method, path, **options)
        seconds = time.monotonic() - began
        said = f"{method} {path}: {answer.status_code} after {seconds:.2f} s: {answer.text[:200]}"
        assert seconds < REFUSAL_SECONDS, said
        if service == "redis" or (fault == "flapping" and answer.status_code != 503):
            assert answer.status_code in {200, 404}, said
            return
        assert answer.status_code == 503, said
        assert int(answer.headers["retry-after"]) >= 1
        body = answer.json()
        if path.startswith("/admin"):
            assert body["error"]["code"] == "dependency_down", said
        else:
            assert body["status"] == "error", said
            assert body["error_code"], said

    for _ in range(2):  # as it begins, and when it is known
        await asyncio.gather(*(call(*each) for each in calls * 3))
        await asyncio.sleep(0.5)


async def check_rows(site: Site, seen: Sequence[Seen]) -> None:
    """Each request is in the ledger, once."""
    ids = [each.request_id for each in seen]
    connection = await asyncpg.connect(site.url)
    query = "select request_id from usage where request_id = any($1)"

    async def are_there() -> bool:
        rows = await connection.fetch(query, ids)
        return len(rows) >= len(ids)

    try:
        await until(are_there, RECOVERY_SECONDS, "all rows are in the ledger")
        await asyncio.sleep(0.5)
        counted = Counter(row["request_id"] for row in await connection.fetch(query, ids))
    finally:
        await connection.close()
    assert counted == dict.fromkeys(ids, 1)


async def test_a_start_on_an_empty_database_that_is_away(site: Site, tmp_path: Path) -> None:
    """Nobody is told that a key is wrong; what is missing is made when it can be."""
    name = f"empty_{time.monotonic_ns()}"
    await asyncio.to_thread(site.postgres.command, f"create database {name}")
    url = site.postgres.url(name)
    with slow_proxy(site.postgres.port) as proxy:
        proxy.set("refuse")
        began = time.monotonic()
        variables = {"POSTGRES_URL": through(url, site.postgres.port, proxy)}
        async with guarded(tmp_path, site.replica, variables) as (gateway, http):
            ready_after = time.monotonic() - began
            headers = {"authorization": "Bearer sk-any"}
            for _ in range(3):
                answer = await http.post("/v1/chat/completions", json={}, headers=headers)
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] == "dependency_down"
                assert int(answer.headers["retry-after"]) >= 1
            assert proxy.most_attempts(began, time.monotonic()) <= MOST_ATTEMPTS
            proxy.set("pass")
            passing = time.monotonic()

            async def has_tables() -> bool:
                ready = (await http.get("/health/ready")).json()
                return bool(ready["schema_version"] == len(migrations()))

            await until(has_tables, RECOVERY_SECONDS, "the tables are made")
            made_after = time.monotonic() - passing
            app = await asyncio.to_thread(create_app, url)

            async def is_in() -> bool:
                headers = {"authorization": f"Bearer {app['key']}"}
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                answer = await http.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code in {200, 401, 503}
                return answer.status_code == 200

            await until(is_in, RECOVERY_SECONDS, "the new key is known")
            assert await dependency(gateway, "up") == 1
    print(f"\nready after {ready_after:.1f} s, tables {made_after:.1f} s after the return")


async def test_a_start_while_postgres_is_slow_takes_keys_from_the_snapshot(
    site: Site, tmp_path: Path
) -> None:
    """And it ends in time when it is told to, with both stores hanging and rows to ship."""
    with slow_proxy(site.postgres.port) as to_postgres, slow_proxy(site.redis.port) as to_redis:
        variables = {
            "POSTGRES_URL": through(site.url, site.postgres.port, to_postgres),
            "REDIS_URL": through(site.redis.url, site.redis.port, to_redis),
        }
        async with guarded(tmp_path, site.replica, variables):
            pass  # long enough to be ready: the snapshot is there
        to_postgres.set("slow")
        to_redis.set("slow")
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        async with guarded(tmp_path, site.replica, variables) as (gateway, http):
            for key, status in ((site.steady.key, 200), ("sk-wrong", 401)):
                headers = {"authorization": f"Bearer {key}"}
                began = time.monotonic()
                answer = await http.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == status, answer.text
                assert time.monotonic() - began < 1
            to_postgres.set("hang")
            to_redis.set("hang")
            began = time.monotonic()
            gateway.process.terminate()
            async with asyncio.timeout(20):
                await gateway.process.wait()
            print(f"\nended {time.monotonic() - began:.1f} s after TERM, with both hanging")


async def dependency(gateway: RunningGateway, state: str) -> float:
    return (await gateway.metrics())["llm_gateway_dependency_state", "postgres", state]


def create_app(url: str) -> dict[str, Any]:
    """As an operator does it."""
    done = subprocess.run(
        [sys.executable, "-m", "api_server", "apps", "create", "late", "--json"],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | {"POSTGRES_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    created: dict[str, Any] = json.loads(done.stdout)
    return created
