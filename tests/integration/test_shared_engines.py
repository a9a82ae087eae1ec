"""Several gateways in front of one engine, which learn of each other through a real Redis."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

from tests.job_programs import Program
from tests.replicas import Replica, RunningGateway, running_gateway, running_replicas, until

MESSAGES: Any = [{"role": "user", "content": "hi"}]
SLOTS, SURPLUS, GATEWAYS = 4, 1, 3


def processes_known(gateway: RunningGateway) -> int:
    """With how many a gateway shares the engine, by its log."""
    lines = [json.loads(line) for line in gateway.log().splitlines()]
    heard = [line["processes"] for line in lines if "processes" in line]
    return heard[-1] if heard else 1


async def all_know(gateways: list[RunningGateway], count: int, seconds: float) -> None:
    async def claim() -> bool:
        return all(processes_known(each) == count for each in gateways)

    await until(claim, seconds, f"each of {len(gateways)} gateways knows of {count} processes")


async def most_at_once(engine: Replica, gateways: list[RunningGateway], requests: int) -> int:
    """What the engine has at the same time at most, while each gateway gets so many requests."""

    async def ask(gateway: RunningGateway) -> None:
        async with gateway.client() as client:
            body = {"tokens": 20, "pause": 0.02}
            asking = (
                client.chat.completions.create(model="m", messages=MESSAGES, extra_body=body)
                for _ in range(requests)
            )
            await asyncio.gather(*asking)

    asking = asyncio.gather(*(ask(gateway) for gateway in gateways))
    most = 0
    while not asking.done():
        counts = await engine.counts()
        most = max(most, counts.running + counts.queued)
        await asyncio.sleep(0.005)
    await asking
    return most


async def test_gateways_share_the_places_of_an_engine(tmp_path: Path, redis_url: str) -> None:
    async with running_replicas(1, slots=SLOTS) as (engine,), contextlib.AsyncExitStack() as stack:
        gateways = []
        for number in range(GATEWAYS):
            folder = tmp_path / str(number)
            folder.mkdir()
            gateways.append(
                await stack.enter_async_context(
                    running_gateway(
                        folder,
                        {},
                        variables={"REDIS_URL": redis_url},
                        models=[{"id": "m", "replicas": [engine.url], "slots": SLOTS}],
                        admission={"surplus": SURPLUS},
                    )
                )
            )
        await all_know(gateways, GATEWAYS, 5)
        most = await most_at_once(engine, gateways, 10)
        assert SLOTS <= most <= SLOTS + SURPLUS + GATEWAYS - 1

        left, stopped, killed = gateways
        stopped.process.send_signal(signal.SIGTERM)
        killed.process.kill()
        await all_know([left], 1, 12)
        assert await most_at_once(engine, [left], 20) == SLOTS + SURPLUS


async def test_a_worker_counts_as_well(tmp_path: Path, redis_url: str, postgres_url: str) -> None:
    """It asks the engine for its jobs, by the same rules."""
    told = {"REDIS_URL": redis_url, "POSTGRES_URL": postgres_url, "DATA_DIR": str(tmp_path)}
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"m": replicas}, variables=told) as gateway,
    ):
        config = {"STACK_CONFIG": str(tmp_path / "stack.yaml")}
        worker = Program("worker", told | config, tmp_path / "worker.log")
        await worker.start()
        try:
            await all_know([gateway], 2, 10)
        finally:
            await worker.kill()
