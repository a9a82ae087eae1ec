"""A light app beside one with 500 clients: what it waits for its first token.

The engine is a process with slots and the pace of a small GPU; the clients come back as they are
told. The same light client under the heavy app's name shows what the queue alone would do to it.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import msgspec
import pytest
import yaml
from starlette.types import Receive, Scope, Send

from api_server.main import Gateway, create_app
from api_server.schemas.apps import CALLER, App, Caller, Policy
from api_server.server import Server, configuration
from api_server.settings import load_settings
from tests.replicas import running_replicas

SLOTS = 32
CLIENTS = 500
FIRST_PAUSE, PAUSE = 0.2, 0.02
HEAVY_TOKENS, LIGHT_TOKENS = range(5, 36), 5
"""Answers of different lengths: else all slots would come free in the same moment."""

HOLD_SECONDS = FIRST_PAUSE + 20 * PAUSE
WARM_UP_SECONDS = 4.0
ASKED = 40
"""Requests of the light app in each round, one after the other."""

LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Attempt:
    """One HTTP request; seconds are to the first token, or None where it was refused."""

    status: int
    began: float
    first_token_seconds: float | None
    retry_after_seconds: float = 0.0


@dataclass
class Crowd:
    """The clients of the heavy app, which go on until they are cancelled."""

    port: int
    attempts: list[tuple[int, Attempt]] = field(default_factory=list)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while True:
            tokens = random.choice(HEAVY_TOKENS)
            for tries in itertools.count():
                attempt = await ask(self.port, "heavy", tokens, tries)
                self.attempts.append((tries, attempt))
                if attempt.status == 200:
                    break
                await asyncio.sleep(attempt.retry_after_seconds)


async def ask(port: int, app: str, tokens: int, tries: int = 0) -> Attempt:
    """One streamed chat on a connection of its own, read to its end."""
    play = {"tokens": tokens, "first_pause": FIRST_PAUSE, "pause": PAUSE}
    chat = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    body = msgspec.json.encode(chat | play)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-test-app: {app}\r\n"
        f"x-stainless-retry-count: {tries}\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        headers: dict[bytes, bytes] = {}
        while line := (await reader.readline()).strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        if status != 200:
            return Attempt(status, began, None, float(headers[b"retry-after-ms"]) / 1000)
        await reader.readuntil(b'"content":')
        first_token_seconds = time.monotonic() - began
        rest = await reader.read()
        assert b"[DONE]" in rest, "a silent short answer"
        return Attempt(status, began, first_token_seconds)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Labelled(Gateway):
    """The gateway for callers that say in a header which app they are."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, gateway.health, gateway.begin_drain)
        self._callers = {
            name.encode(): Caller(App(f"app_{name}", name, Policy())) for name in ("heavy", "light")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope[CALLER] = self._callers[dict(scope["headers"])[b"x-test-app"]]
        await super().__call__(scope, receive, send)


@asynccontextmanager
async def labelled_gateway(folder: Path, replica_url: str) -> AsyncIterator[int]:
    """The port of a gateway in this process."""
    path = folder / "stack.yaml"
    model = {"id": "m", "replicas": [replica_url], "slots": SLOTS}
    path.write_text(yaml.safe_dump({"models": [model], "timeouts": {"queue_seconds": 30}}))
    settings = load_settings({"STACK_CONFIG": str(path)})
    gateway = Labelled(create_app(settings))
    config = configuration(gateway, settings)
    config.port = 0
    server = Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving


@dataclass(frozen=True)
class Measured:
    """Seconds to a first token: p95 of the light client alone and beside the crowd; one of that.

    `retries` are the tries that came as they were told at the first one.
    """

    alone: float
    beside: float
    among: float
    refused: int
    retries: int
    retries_served: int
    answers_per_second: float


async def waits(port: int, app: str, count: int) -> list[float]:
    """Of so many requests, one after the other: seconds from the first try to the first token."""
    seconds: list[float] = []
    for _ in range(count):
        began = time.monotonic()
        for tries in itertools.count():
            attempt = await ask(port, app, LIGHT_TOKENS, tries)
            if attempt.first_token_seconds is not None:
                seconds.append(attempt.began + attempt.first_token_seconds - began)
                break
            assert app == "heavy", "the light app is sent away"
            await asyncio.sleep(attempt.retry_after_seconds)
    return seconds


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


async def measure(folder: Path) -> Measured:
    async with (
        asyncio.timeout(LIMIT_SECONDS),
        running_replicas(1, slots=SLOTS) as (engine,),
        labelled_gateway(folder, engine.url) as port,
    ):
        alone = await waits(port, "light", ASKED)
        crowd = Crowd(port)
        running = asyncio.create_task(crowd.run())
        try:
            await asyncio.sleep(WARM_UP_SECONDS)
            crowd.attempts.clear()
            among = asyncio.create_task(waits(port, "heavy", 1))
            began, before = time.monotonic(), (await engine.counts()).finished
            beside = await waits(port, "light", ASKED)
            done = (await engine.counts()).finished - before
            answers_per_second = done / (time.monotonic() - began)
            attempts = list(crowd.attempts)
            (one_of_the_crowd,) = await among
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    again = [attempt for tries, attempt in attempts if tries == 1]
    return Measured(
        p95(alone),
        p95(beside),
        one_of_the_crowd,
        refused=sum(attempt.status == 429 for _, attempt in attempts),
        retries=len(again),
        retries_served=sum(attempt.status == 200 for attempt in again),
        answers_per_second=answers_per_second,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    found = asyncio.run(measure(tmp_path_factory.mktemp("fairness")))
    print(f"\n{found}")
    return found


def test_it_was_an_overload(measured: Measured) -> None:
    assert measured.refused > 20
    assert measured.among > 5 * measured.alone, "what the queue does to one of the heavy app"


def test_the_light_apps_first_token_comes_within_twice_the_time(measured: Measured) -> None:
    assert measured.beside <= 2 * measured.alone


def test_the_heavy_app_is_told_the_truth_all_the_same(measured: Measured) -> None:
    assert measured.retries > 20
    assert measured.retries_served >= 0.85 * measured.retries


def test_no_slot_idles_for_the_sake_of_fairness(measured: Measured) -> None:
    assert measured.answers_per_second >= 0.8 * SLOTS / HOLD_SECONDS
