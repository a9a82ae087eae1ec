"""How many requests a model's engines get, as replicas go and come back."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway
from tests.samples import samples

MESSAGES: Any = [{"role": "user", "content": "hi"}]
SOUND = "llm_gateway_replica_sound"


async def test_a_replica_that_is_left_out_takes_its_places_with_it(tmp_path: Path) -> None:
    async with running_engine() as gone, running_engine() as well:
        urls = [f"http://127.0.0.1:{engine.port}" for engine in (gone, well)]
        async with (
            running_gateway(
                tmp_path,
                well,
                models=[{"id": "m", "replicas": urls, "slots": 2}],
                admission={"surplus": 0, "queue_size": 0},
                breaker={"open_seconds": 60, "max_open_seconds": 60},
                health={"interval_seconds": 60},
            ) as (_, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            httpx.AsyncClient(base_url=url) as http,
        ):

            async def admitted(count: int) -> int:
                """Of so many streams at once, those that are let in."""
                extra = {"tokens": 1000, "pause": 0.02}
                asking = [
                    client.chat.completions.create(
                        model="m", messages=MESSAGES, stream=True, extra_body=extra
                    )
                    for _ in range(count)
                ]
                answers = await asyncio.gather(*asking, return_exceptions=True)
                streams = [each for each in answers if isinstance(each, openai.AsyncStream)]
                refused = [each for each in answers if isinstance(each, openai.RateLimitError)]
                assert len(streams) + len(refused) == count, answers
                for stream in streams:
                    await stream.close()
                async with asyncio.timeout(5):
                    while (await http.get("/health")).json()["requests_in_flight"]:
                        await asyncio.sleep(0.01)
                return len(streams)

            async def sound() -> list[float]:
                counted = samples((await http.get("/metrics")).content)
                return [counted[SOUND, "m", each.removeprefix("http://")] for each in urls]

            assert await admitted(6) == 4
            assert await sound() == [1, 1]
            gone.server.close()
            for number in range(40):
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": str(number)}]
                )
            assert await sound() == [0, 1]
            assert await admitted(6) == 2


async def test_two_answers_at_once_stay_allowed_while_a_replica_is_gone(tmp_path: Path) -> None:
    """`n: 2` is no error of the client's because an engine is away."""
    async with running_engine() as gone, running_engine() as well:
        gone.server.close()
        urls = [f"http://127.0.0.1:{engine.port}" for engine in (gone, well)]
        models = [{"id": "m", "replicas": urls, "slots": 2}]
        async with (
            running_gateway(tmp_path, well, models=models) as (_, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            for _ in range(6):
                await client.chat.completions.create(model="m", messages=MESSAGES, n=2)
