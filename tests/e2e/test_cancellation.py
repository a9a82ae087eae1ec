"""A client that leaves frees the engine's slot at once, whatever it was waiting for.

More clients than slots, each with a seed of its own: the engine's `/slots` tells by it for whom it
still works. Who leaves, when and how is chance, but the same chance in every run.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.engine_probe import EngineProbe
from tests.local_stack import (
    LocalStack,
    changed_stack_file,
    eventually,
    local_stack,
)

SLOTS = 2
CLIENTS = 100
AT_ONCE = 5
FREED_SECONDS = 0.25
POLL_SECONDS = 0.01
ANSWER_TOKENS = 1900
LONGEST_STAY_SECONDS = 0.6


@pytest.fixture(scope="module")
def two_slots(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of its own; the session's came up, so the engine is built."""
    assert stack.is_ready()
    folder = tmp_path_factory.mktemp("two-slots")
    config = changed_stack_file(folder, local={"slots": SLOTS})
    with local_stack(folder / "data", STACK_CONFIG=config) as running:
        running.wait_ready(30)
        yield running


@dataclass
class Sampler:
    """Looks at the engine all the time: for which seeds it works, and when it was seen to."""

    engine: EngineProbe
    first_seen: dict[int, float] = field(default_factory=dict)
    freed_by: dict[int, float] = field(default_factory=dict)
    longest_gap_seconds: float = 0.0

    async def run(self) -> None:
        before = time.monotonic()
        working: set[int] = set()
        async with httpx.AsyncClient(
            base_url=self.engine.url, headers=self.engine.client.headers
        ) as client:
            while True:
                slots = (await client.get("/slots")).json()
                now = time.monotonic()
                self.longest_gap_seconds = max(self.longest_gap_seconds, now - before)
                before = now
                seeds = {slot["params"]["seed"] for slot in slots if slot["is_processing"]}
                for seed in seeds:
                    self.first_seen.setdefault(seed, now)
                    self.freed_by.pop(seed, None)
                for seed in working - seeds:
                    self.freed_by[seed] = now
                working = seeds
                await asyncio.sleep(POLL_SECONDS)

    async def until_idle(self) -> None:
        async with asyncio.timeout(10):
            while len(self.freed_by) < len(self.first_seen):
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def sampling(engine: EngineProbe) -> AsyncIterator[Sampler]:
    sampler = Sampler(engine)
    task = asyncio.create_task(sampler.run())
    try:
        yield sampler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def request(port: int, seed: int, *, stream: bool) -> bytes:
    """A long chat as bytes."""
    body = json.dumps(
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
            "seed": seed,
            "stream": stream,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def answer_seconds(port: int) -> float:
    """How long a whole answer takes on this machine when nobody else asks."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    writer.write(request(port, 999, stream=True))
    assert b"[DONE]" in await reader.readuntil(b"data: [DONE]")
    writer.close()
    return time.monotonic() - begun


async def stay_a_while(port: int, seed: int, seconds: float, chance: random.Random) -> float:
    """Ask, read what comes, and leave in the middle; returns the moment of leaving."""
    is_stream, is_rude = chance.random() < 0.5, chance.random() < 0.5
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(request(port, seed, stream=is_stream))
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
        raise AssertionError("the answer came to its end")
    except TimeoutError:
        left = time.monotonic()
    if is_rude:
        writer.transport.abort()
    writer.close()
    return left


@pytest.mark.alone
async def test_hundred_clients_that_leave_free_their_slots(two_slots: LocalStack) -> None:
    chance = random.Random(20261121)
    left: dict[int, float] = {}
    places = asyncio.Semaphore(AT_ONCE)

    # Every slot would stay busy for longer than it may, if nobody noticed that its client left.
    longest = min(LONGEST_STAY_SECONDS, await answer_seconds(two_slots.port) - 2 * FREED_SECONDS)
    assert longest > 0.1, "too fast a machine for so short an answer"

    async def one(seed: int) -> None:
        async with places:
            seconds = chance.uniform(0, longest)
            left[seed] = await stay_a_while(two_slots.port, seed, seconds, chance)

    with EngineProbe(two_slots) as engine:
        async with sampling(engine) as sampler:
            await asyncio.gather(*(one(seed) for seed in range(1000, 1000 + CLIENTS)))
            await asyncio.sleep(FREED_SECONDS + 0.1)
            await sampler.until_idle()

    seen = sampler.first_seen
    assert set(seen) <= set(left)
    generating = {seed for seed in seen if seen[seed] < left[seed]}
    late = {seed for seed in seen if seen[seed] >= left[seed]}
    lags = sorted(
        max(0.0, sampler.freed_by[seed] - left[seed]) if seed in seen else 0.0 for seed in left
    )
    working = sorted(sampler.freed_by[seed] - left[seed] for seed in generating)
    print(
        f"\n{len(generating)} left while the engine worked for them, {CLIENTS - len(generating)} "
        f"while they waited ({len(late)} of them reached the engine all the same); the former's "
        f"slots were seen free after (ms) p50 {working[len(working) // 2] * 1000:.0f}, "
        f"p90 {working[len(working) * 9 // 10] * 1000:.0f}, max {working[-1] * 1000:.0f}; "
        f"longest time between two looks {sampler.longest_gap_seconds * 1000:.0f}"
    )
    assert len(generating) >= CLIENTS // 4
    assert CLIENTS - len(generating) >= CLIENTS // 4
    assert lags[CLIENTS * 99 // 100 - 1] <= FREED_SECONDS

    def all_are_logged() -> bool:
        lines = (two_slots.data_dir / "logs/gateway.log").read_text().splitlines()
        return sum('"client_left"' in line for line in lines) >= CLIENTS * 9 // 10

    eventually(all_are_logged, 2, "lines that say that the client left")


async def test_an_abandoned_queue_leaves_nothing_behind(two_slots: LocalStack) -> None:
    """All leave at the same moment, those who wait too: the engine and the queue are empty then."""
    writers = []
    with EngineProbe(two_slots) as engine:
        for number in range(12):
            _, writer = await asyncio.open_connection("127.0.0.1", two_slots.port)
            writer.write(request(two_slots.port, 2000 + number, stream=number % 2 == 0))
            writers.append(writer)
        async with httpx.AsyncClient(base_url=two_slots.url) as client:
            async with asyncio.timeout(5):
                while (await client.get("/health")).json()["queue_size"] < 12 - SLOTS - 1:
                    await asyncio.sleep(POLL_SECONDS)
            assert engine.busy_slots() == SLOTS
            for writer in writers:
                writer.close()
            await asyncio.sleep(FREED_SECONDS)
            health = (await client.get("/health")).json()
        assert engine.busy_slots() == 0
        assert (health["queue_size"], health["requests_in_flight"]) == (0, 0)
        assert engine.metric("requests_deferred") == 0


async def test_the_next_in_the_queue_gets_the_place_of_one_who_left(two_slots: LocalStack) -> None:
    async with asyncio.timeout(30):
        connections = []
        for number in range(SLOTS + 3):
            reader, writer = await asyncio.open_connection("127.0.0.1", two_slots.port)
            writer.write(request(two_slots.port, 3000 + number, stream=True))
            connections.append((reader, writer))
            await asyncio.sleep(0.03)
        last, _ = connections[-1]
        for _, writer in connections[:-1]:
            writer.close()
        left = time.monotonic()
        assert (await last.readline()).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - left < 2 * FREED_SECONDS
        connections[-1][1].close()
