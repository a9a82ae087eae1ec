"""kill -9 of one of two replicas under the load of 50 clients."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.outcome import Outcome, ask
from tests.replicas import RunningGateway, running_gateway, running_replicas, settled

CLIENTS = 50
SECONDS_BEFORE = 2.0
SECONDS_AFTER = 3.0
POLL_SECONDS = 0.05
STREAM = {"tokens": 15, "pause": 0.05}
PLAIN = {"tokens": 5}


@dataclass
class Load:
    """Clients that ask again and again until `stop`, streams and plain answers in turn."""

    gateway: RunningGateway
    outcomes: list[tuple[bool, Outcome]] = field(default_factory=list)
    is_over: bool = False

    async def client(self, number: int) -> None:
        first_pause = 0.1 + 0.4 * number / CLIENTS  # so that they are never all in the same phase
        stream = bool(number % 2)
        async with self.gateway.client() as client:
            while not self.is_over:
                fields = {"first_pause": first_pause} | (STREAM if stream else PLAIN)
                self.outcomes.append((stream, await ask(client, "pair", stream=stream, **fields)))
                stream = not stream

    async def watch_readiness(self, statuses: list[int]) -> None:
        async with httpx.AsyncClient(base_url=self.gateway.url, timeout=5) as http:
            while not self.is_over:
                statuses.append((await http.get("/health/ready")).status_code)
                await asyncio.sleep(POLL_SECONDS)


async def test_kill_of_one_of_two_replicas(tmp_path: Path) -> None:
    statuses: list[int] = []
    async with (
        asyncio.timeout(60),
        running_replicas(2) as (dying, living),
        running_gateway(tmp_path, {"pair": (dying, living)}) as gateway,
    ):
        load = Load(gateway)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.watch_readiness(statuses))
            for number in range(CLIENTS):
                tasks.create_task(load.client(number))
            await asyncio.sleep(SECONDS_BEFORE)
            busy = (await dying.counts()).running
            assert busy > CLIENTS / 5, "it had its share of the work"
            before = len(load.outcomes)
            started = time.monotonic()
            await dying.kill()
            await asyncio.sleep(SECONDS_AFTER)
            load.is_over = True
        assert before >= CLIENTS
        assert time.monotonic() - started < SECONDS_AFTER + 4

        failed = [(stream, each) for stream, each in load.outcomes if not each.is_complete]
        cut = [each for stream, each in failed if stream and each.has_begun]
        assert 0 < len(cut) <= busy + 5, "the streams that it had begun, and nothing else"
        assert Counter((each.status, each.code) for each in cut) == {
            (200, "engine_truncated"): len(cut)
        }
        assert all(each.pieces for each in cut)
        others = [each for stream, each in failed if not (stream and each.has_begun)]
        # A plain answer that the engine was in the middle of: less than a millisecond of its time.
        assert Counter((each.status, each.code) for each in others) in (
            {},
            {(502, "engine_truncated"): 1},
        )
        retried = await retries(gateway)
        assert retried >= 1, "some were not answered yet, and were asked again elsewhere"
        assert set(statuses) == {200}
        assert len(statuses) > (SECONDS_BEFORE + SECONDS_AFTER) / POLL_SECONDS / 4
        assert len(load.outcomes) - before > CLIENTS, "the other replica does the work of both"
        await settled(gateway, [living])
        print(f"{len(load.outcomes)} requests, {len(cut)} cut, {retried:g} asked again")


async def retries(gateway: RunningGateway) -> float:
    counted = await gateway.metrics()
    return sum(v for key, v in counted.items() if key[0] == "llm_gateway_retries_total")
