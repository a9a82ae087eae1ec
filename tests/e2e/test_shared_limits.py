"""One limit, four gateway processes, 64 racing clients: from outside, with keys and real stores."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.access import make_app
from tests.replicas import RunningGateway, running_gateway, running_replicas

GATEWAYS, CLIENTS, LIMIT = 4, 64, 400
RACE_SECONDS = 8.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def race(urls: Sequence[str], key: str) -> Counter[int]:
    """Clients ask as fast as they can, whatever they are told; how often each status came."""
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + RACE_SECONDS

    async def client(url: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            while time.monotonic() < deadline:
                answer = await http.post("/v1/chat/completions", json=CHAT)
                statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    await asyncio.sleep(0.05)

    await asyncio.gather(*(client(urls[number % len(urls)]) for number in range(CLIENTS)))
    return statuses


async def test_four_gateways_admit_no_more_than_the_limit_and_hardly_less(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    app = await make_app(postgres_url, "racers", rate_limits=[f"{LIMIT}/minute"])
    async with AsyncExitStack() as stack:
        (engine,) = await stack.enter_async_context(running_replicas(1))
        gateways: list[RunningGateway] = []
        for number in range(GATEWAYS):
            folder = tmp_path / str(number)
            folder.mkdir()
            variables = {
                "AUTH": "on",
                "POSTGRES_URL": postgres_url,
                "REDIS_URL": redis_url,
                "DATA_DIR": str(folder),
            }
            gateways.append(
                await stack.enter_async_context(
                    running_gateway(folder, {"m": [engine]}, variables=variables)
                )
            )
        assert app.key is not None
        statuses = await race([each.url for each in gateways], app.key)
        assert set(statuses) == {200, 429}
        assert 0.97 * LIMIT <= statuses[200] <= LIMIT
        assert (await engine.counts()).finished == statuses[200]
