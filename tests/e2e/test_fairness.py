"""A light app beside one with 500 clients: what it waits for its first token.

The engine is a process with slots and the pace of a small GPU, the gateway another one, with keys,
limits and the ledger; the clients come back as they are told. The light client with the heavy app's
key shows what the queue alone would do to it.
"""

import asyncio
import contextlib
import itertools
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

import msgspec
import pytest

from tests.access import make_app
from tests.replicas import running_gateway, running_replicas
from tests.stores import PostgresServer, RedisServer

pytestmark = pytest.mark.alone

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
    key: str
    attempts: list[tuple[int, Attempt]] = field(default_factory=list)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while True:
            tokens = random.choice(HEAVY_TOKENS)
            for tries in itertools.count():
                attempt = await ask(self.port, self.key, tokens, tries)
                self.attempts.append((tries, attempt))
                if attempt.status == 200:
                    break
                await asyncio.sleep(attempt.retry_after_seconds)


async def ask(port: int, key: str, tokens: int, tries: int = 0) -> Attempt:
    """One streamed chat on a connection of its own, read to its end."""
    play = {"tokens": tokens, "first_pause": FIRST_PAUSE, "pause": PAUSE}
    chat = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    body = msgspec.json.encode(chat | play)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
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


async def waits(port: int, key: str, count: int, *, may_be_refused: bool) -> list[float]:
    """Of so many requests, one after the other: seconds from the first try to the first token."""
    seconds: list[float] = []
    for _ in range(count):
        began = time.monotonic()
        for tries in itertools.count():
            attempt = await ask(port, key, LIGHT_TOKENS, tries)
            if attempt.first_token_seconds is not None:
                seconds.append(attempt.began + attempt.first_token_seconds - began)
                break
            assert may_be_refused, "the light app is sent away"
            await asyncio.sleep(attempt.retry_after_seconds)
    return seconds


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


async def measure(folder: Path, postgres_url: str, redis_url: str) -> Measured:
    heavy, light = [(await make_app(postgres_url, name)).key for name in ("heavy", "light")]
    assert heavy is not None
    assert light is not None
    variables = {
        "ENVIRONMENT": "production",
        "AUTH": "on",
        "POSTGRES_URL": postgres_url,
        "REDIS_URL": redis_url,
        "DATA_DIR": str(folder),
    }
    async with (
        asyncio.timeout(LIMIT_SECONDS),
        running_replicas(1, slots=SLOTS) as (engine,),
        running_gateway(
            folder,
            {},
            variables=variables,
            models=[{"id": "m", "replicas": [engine.url], "slots": SLOTS}],
            timeouts={"queue_seconds": 30},
        ) as gateway,
    ):
        port = int(gateway.url.rsplit(":", 1)[1])
        alone = await waits(port, light, ASKED, may_be_refused=False)
        crowd = Crowd(port, heavy)
        running = asyncio.create_task(crowd.run())
        try:
            await asyncio.sleep(WARM_UP_SECONDS)
            crowd.attempts.clear()
            among = asyncio.create_task(waits(port, heavy, 1, may_be_refused=True))
            began, before = time.monotonic(), (await engine.counts()).finished
            beside = await waits(port, light, ASKED, may_be_refused=False)
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
def measured(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
) -> Measured:
    redis_server.empty()
    with postgres_server.database() as url:
        folder = tmp_path_factory.mktemp("fairness")
        found = asyncio.run(measure(folder, url, redis_server.url))
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
