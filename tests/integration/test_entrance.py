"""What an app may ask of models, and what its limits say, through a whole gateway."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.access import CHAT, Guarded, guarded_gateway, has_status, make_app, until
from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway


async def test_an_app_learns_nothing_of_models_that_it_may_not_use(
    tmp_path: Path, postgres_url: str
) -> None:
    bound = await make_app(postgres_url, "bound", models=["other"])
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        await until(lambda: has_status(gateway, bound.key, 403), 3)
        for name in ("fake", "made-up"):
            answer = await gateway.chat(bound.key, model=name)
            assert answer.status_code == 403
            message = answer.json()["error"]["message"]
            assert "may use: other" in message
            assert ("fake" in message) == (name == "fake")


async def test_the_longest_answer_of_a_policy_bounds_what_is_asked_for(
    tmp_path: Path, postgres_url: str
) -> None:
    short = await make_app(postgres_url, "short", max_tokens=7)
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        await until(lambda: has_status(gateway, short.key, 200), 3)
        refused = await gateway.chat(short.key, max_tokens=8)
        assert refused.status_code == 403
        assert "answers of 7 tokens" in refused.json()["error"]["message"]
        assert (await gateway.chat(short.key, max_tokens=7)).status_code == 200


async def test_a_request_refused_before_an_engine_saw_it_counts_nowhere(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    few = await make_app(postgres_url, "few", rate_limits=["3/hour"])
    variables = {"REDIS_URL": redis_url}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        await until(lambda: has_status(gateway, few.key, 200), 3)
        for _ in range(5):
            assert (await gateway.chat(few.key, n=1000)).status_code == 400
        statuses = [(await gateway.chat(few.key)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        last = await gateway.chat(few.key)
        assert last.headers["x-ratelimit-remaining-requests"] == "0"
        assert int(last.headers["retry-after"]) > 3000


async def test_who_leaves_before_the_first_token_pays_for_the_prompt(
    tmp_path: Path, postgres_url: str
) -> None:
    hasty = await make_app(postgres_url, "hasty", tokens_per_minute=1000)
    variables = {"POSTGRES_URL": postgres_url, "ENVIRONMENT": "production", "AUTH": "on"}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, variables=variables) as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        gateway = Guarded(url, http)
        await until(lambda: has_status(gateway, hasty.key, 200), 3)
        first = await gateway.chat(hasty.key, max_tokens=1)
        before = int(first.headers["x-ratelimit-remaining-tokens"])
        engine.obey(first_pause=30)
        body = CHAT | {"messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 99}
        headers = {"authorization": f"Bearer {hasty.key}"}
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/chat/completions", json=body, headers=headers, timeout=0.3)
        engine.obey()
        await asyncio.sleep(0.2)
        last = await gateway.chat(hasty.key, max_tokens=1)
        used = before - int(last.headers["x-ratelimit-remaining-tokens"])
        assert 300 <= used < 600
