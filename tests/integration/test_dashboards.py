"""Every panel and every rule, asked of a real Prometheus and PostgreSQL: of a stack that has just
begun, and of one under a little load. And what they say is what the clients saw.
"""

import asyncio
import contextlib
import math
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api_server.services.access.managing import Issued
from api_server.stores.readers import let_read
from tests.access import make_app
from tests.dashboards import MONITORING, panels, plain_sql
from tests.fake_engine import FakeEngine, running_engine
from tests.front import HAPROXY, running_front
from tests.integration.conftest import running_gateway
from tests.integration.test_readers import url_of_reader
from tests.prometheus import PROGRAM, Prometheus, running_prometheus

pytestmark = pytest.mark.alone

RATE_INTERVAL = "8s"
FRESH_SECONDS, MEASURED_SECONDS, WAIT_SECONDS = 20, 8, 40
CLIENTS = 16
LONGEST_SECONDS = 0.9
TIMEOUTS = dict.fromkeys(
    ("queue_seconds", "connect_seconds", "first_token_seconds", "idle_seconds", "total_seconds"), 20
)
SAID = {"role": "user", "content": "hi"}
TYPES: Any = {"explain": {}}
GPU = b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 50\n'

needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="there is no prometheus on PATH")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy")


@dataclass
class Watched:
    """A stack with everything that panels ask for, and who asks."""

    http: httpx.AsyncClient
    engine: FakeEngine
    prometheus: Prometheus
    reader_url: str
    shop: Issued
    tight: Issued

    async def chat(self, app: Issued, headers: dict[str, str] | None = None, **body: Any) -> float:
        """Seconds from the request to the last byte of a stream."""
        began = time.perf_counter()
        body = {"model": "fake", "messages": [SAID]} | body
        shown = {"authorization": f"Bearer {app.key}"} | (headers or {})
        await self.http.post("/v1/chat/completions", json={"stream": True} | body, headers=shown)
        return time.perf_counter() - began

    async def run(self, assistant: str) -> None:
        body = {"assistant_id": assistant, "thread": {"messages": [SAID]}, "stream": True}
        await self.http.post("/v1/threads/runs", json=body, headers=self.shown())

    async def assistant(self) -> str:
        body = {"model": "fake"}
        made = await self.http.post("/v1/assistants", json=body, headers=self.shown())
        return str(made.raise_for_status().json()["id"])

    def shown(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.shop.key}"}

    async def job(self) -> None:
        body = {"request_type": "explain", "request": "queues", "app_code": self.shop.app_code}
        await self.http.post("/ai_request", json=body)


@asynccontextmanager
async def some_gpu() -> AsyncIterator[str]:
    """The address of what dcgm-exporter would say, where there is no GPU."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {len(GPU)}\r\n"
            writer.write(f"{head}connection: close\r\n\r\n".encode() + GPU)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@asynccontextmanager
async def watched(folder: Path, postgres_url: str, redis_url: str) -> AsyncIterator[Watched]:
    variables = {"POSTGRES_URL": postgres_url, "REDIS_URL": redis_url, "AUTH": "on"}
    password = secrets.token_hex(16)
    await let_read(postgres_url, password)
    shop = await make_app(postgres_url, "shop", request_types=TYPES)
    tight = await make_app(postgres_url, "tight", rate_limits=["1/hour"])
    async with (
        running_engine(slots=CLIENTS) as engine,
        running_gateway(
            folder,
            engine,
            variables=variables,
            timeouts=TIMEOUTS,
            models=[
                {"id": "fake", "replicas": [f"http://127.0.0.1:{engine.port}"], "slots": CLIENTS}
            ],
        ) as (_, url),
        running_front(folder, [url.removeprefix("http://")]) as front,
        some_gpu() as gpu,
        httpx.AsyncClient(base_url=front.url, timeout=20) as http,
    ):
        targets = {
            "api-server": url.removeprefix("http://"),
            "front": front.metrics_url.removeprefix("http://"),
            "llama-cpp": f"127.0.0.1:{engine.port}",
            "dcgm-exporter": gpu,
        }
        with running_prometheus(folder, targets) as prometheus:
            reader_url = url_of_reader(postgres_url, password)
            yield Watched(http, engine, prometheus, reader_url, shop, tight)


async def expressions_without_values(stack: Watched, asked: Collection[str]) -> set[str]:
    """Of these (with Grafana's `$__rate_interval`), those that give no number now."""

    def ask() -> set[str]:
        return {
            each
            for each in asked
            if not any(
                math.isfinite(value)
                for value in stack.prometheus.values(
                    each.replace("$__rate_interval", RATE_INTERVAL)
                )
            )
        }

    return await asyncio.to_thread(ask)


async def statements_without_rows(stack: Watched, asked: Collection[str]) -> set[str]:
    """Of these statements, those that give no row, to the role of the panels."""
    ends = datetime.now(UTC)
    found = set()
    connection = await asyncpg.connect(stack.reader_url, timeout=5, command_timeout=10)
    try:
        for each in asked:
            statement = plain_sql(each, ends - timedelta(hours=1), ends, "1m")
            if not await connection.fetch(statement):
                found.add(each)
    finally:
        await connection.close(timeout=5)
    return found


def rules_without_values(prometheus: Prometheus) -> list[str]:
    """Rules that are wrong or were not evaluated yet, and recorded ones without a figure."""
    found = []
    for rule in prometheus.rules():
        if rule["health"] != "ok":
            found.append(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
        elif rule["type"] == "recording":
            labels = ",".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
            values = prometheus.values(f"{rule['name']}{{{labels}}}")
            if not any(math.isfinite(value) for value in values):
                found.append(f"{rule['name']}{{{labels}}}: empty")
    return found


async def until_none_left(
    look: Callable[[Collection[str]], Awaitable[set[str]]], asked: Collection[str], seconds: float
) -> None:
    """Ask again for those that gave nothing, until each gave something once."""
    deadline = time.monotonic() + seconds
    while asked := await look(asked):
        assert time.monotonic() < deadline, "\n\n".join(asked)
        await asyncio.sleep(0.5)


async def has_begun(stack: Watched) -> None:
    """Nobody asked for anything: a panel that is empty now says what there is nothing of."""
    by_expression = {each: panel for panel in panels() for each in panel.expressions}

    async def empty(_: Collection[str]) -> set[str]:
        without = await expressions_without_values(stack, by_expression)
        return {
            panel.name
            for panel in by_expression.values()
            if without.issuperset(panel.expressions) and not panel.may_be_empty
        }

    await until_none_left(empty, {"all"}, FRESH_SECONDS)
    for panel in panels():
        if not panel.may_be_empty:
            assert await statements_without_rows(stack, panel.statements) == set(), panel.name


def evenly_spread(least: float, most: float) -> Iterator[float]:
    """So that the percentiles of a few are those of many; the golden ratio leaves no gaps."""
    place = 0.0
    while True:
        place = (place + 0.6180339887) % 1
        yield least + place * (most - least)


async def measured(stack: Watched) -> list[float]:
    """Chats of all lengths, and how long they took."""
    lengths = evenly_spread(0.02, LONGEST_SECONDS)
    ends = time.monotonic() + MEASURED_SECONDS
    seconds: list[float] = []

    async def client() -> None:
        while time.monotonic() < ends:
            seconds.append(await stack.chat(stack.shop, first_pause=next(lengths), tokens=2))

    await asyncio.gather(*(client() for _ in range(CLIENTS // 2)))
    return sorted(seconds)


async def says_the_same(stack: Watched, seconds: list[float]) -> None:
    """Prometheus' percentiles are the clients' own, within a tenth; and so is their number."""
    await asyncio.sleep(3)  # a scrape, and an evaluation of the rules
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        (told,) = await asyncio.to_thread(
            stack.prometheus.values, f"stack:request_duration_seconds:{name}_5m"
        )
        own = seconds[math.ceil(share * len(seconds)) - 1]
        assert told == pytest.approx(own, rel=0.1), f"{name} of {len(seconds)}"
    (count,) = await asyncio.to_thread(
        stack.prometheus.values, "sum(gen_ai_server_request_duration_seconds_count)"
    )
    assert count == len(seconds)


@asynccontextmanager
async def loaded(stack: Watched) -> AsyncIterator[None]:
    """With a little of everything going on."""
    orders = f"http://127.0.0.1:{stack.engine.port}/fault"
    await stack.http.post(orders, json={"first_pause": 0.5})  # of jobs too, so that some wait
    task = asyncio.create_task(everything(stack))
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def everything(stack: Watched) -> None:
    """Chats, some of which fail, are beyond a limit, or were answered before; jobs and runs."""
    use = {"x-cache": "use"}
    assistant = await stack.assistant()
    while True:
        await asyncio.gather(
            *(stack.chat(stack.shop, first_pause=0.2, tokens=5, pause=0.02) for _ in range(6)),
            *(stack.chat(stack.shop, fault="error_500") for _ in range(2)),
            stack.chat(stack.shop, use, first_pause=0.0, temperature=0),
            stack.chat(stack.tight),
            stack.job(),
            stack.run(assistant),
            stack.http.get("/v1/models", headers=stack.shown()),
        )


@needs_prometheus
@needs_haproxy
async def test_panels_and_rules_of_a_stack_from_its_first_minute_on(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    async with watched(tmp_path, postgres_url, redis_url) as stack:
        await has_begun(stack)
        await says_the_same(stack, await measured(stack))
        async with loaded(stack):
            await until_none_left(
                lambda asked: expressions_without_values(stack, asked),
                {each for panel in panels() for each in panel.expressions},
                WAIT_SECONDS,
            )
            await until_none_left(
                lambda asked: statements_without_rows(stack, asked),
                {each for panel in panels() for each in panel.statements},
                WAIT_SECONDS,
            )
            assert await asyncio.to_thread(rules_without_values, stack.prometheus) == []
            assert len(await asyncio.to_thread(stack.prometheus.rules)) > 100
            assert set(await asyncio.to_thread(stack.prometheus.values, "up")) == {1}


@needs_prometheus
def test_an_expression_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, {}) as prometheus:
        with pytest.raises(AssertionError, match="parse error"):
            prometheus.values("rate(up)) or")
        assert prometheus.values("nothing_of_this_name") == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool on PATH")
def test_promtool_finds_nothing_wrong() -> None:
    path = MONITORING / "prometheus/prometheus.yml"
    checked = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
