"""A model whose engines fail leaves a request to its fallbacks, before the first byte."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fake_engine import FakeEngine, running_engine
from tests.integration.conftest import running_gateway
from tests.samples import samples

MESSAGES: Any = [{"role": "user", "content": "hi"}]
FALLBACKS = "llm_gateway_fallbacks_total"


@dataclass
class Three:
    """Three models in a row: `first` falls back to `second`, then to `third`."""

    engines: list[FakeEngine]
    url: str
    client: openai.AsyncOpenAI

    async def ask(self, *, stream: bool = False, model: str = "first", **extra: Any) -> Any:
        """The answer's headers and model."""
        raw = await self.client.chat.completions.with_raw_response.create(
            model=model, messages=MESSAGES, stream=stream, extra_body=extra
        )
        answer: Any = raw.parse()
        if not stream:
            return raw.headers, answer.model
        models = {chunk.model async for chunk in answer}
        assert len(models) == 1
        return raw.headers, models.pop()

    async def counted(self) -> dict[tuple[str, ...], float]:
        async with httpx.AsyncClient() as http:
            return samples((await http.get(f"{self.url}/metrics")).content)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Three]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(running_engine()) for _ in range(3)]
        models = [
            {"id": name, "replicas": [f"http://127.0.0.1:{engine.port}"], "slots": 1}
            for name, engine in zip(("first", "second", "third"), engines, strict=True)
        ]
        models[0]["fallbacks"] = ["second", "third"]
        admission = {"surplus": 0, "queue_size": 0}
        _, url = await stack.enter_async_context(
            running_gateway(tmp_path, engines[0], models=models, admission=admission)
        )
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        yield Three(engines, url, await stack.enter_async_context(client))


@pytest.mark.parametrize("stream", [False, True])
async def test_while_its_engine_answers_no_fallback_is_used(three: Three, stream: bool) -> None:
    headers, model = await three.ask(stream=stream)
    assert model == "first"
    assert "x-fallback-model" not in headers
    assert not [key for key in await three.counted() if key[0] == FALLBACKS]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_gone_leaves_it_to_the_first_fallback(
    three: Three, stream: bool
) -> None:
    three.engines[0].server.close()
    headers, model = await three.ask(stream=stream)
    assert model == "second"
    assert headers["x-fallback-model"] == "second"
    counted = await three.counted()
    assert counted[FALLBACKS, "second", "first", "engine_unavailable"] == 1
    tokens = ("gen_ai_client_token_usage_total", "second", "output")
    assert counted[tokens] == 5, "who answered has done the work"


async def test_fallbacks_are_tried_in_their_order(three: Three) -> None:
    for engine in three.engines[:2]:
        engine.server.close()
    headers, model = await three.ask()
    assert (model, headers["x-fallback-model"]) == ("third", "third")


@pytest.mark.parametrize("fault", ["error_500", "hang_before_headers", "garbage"])
async def test_when_all_fail_the_asked_models_error_is_told(three: Three, fault: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await three.ask(fault=fault)
    assert caught.value.status_code in (502, 504)
    assert "x-fallback-model" not in caught.value.response.headers
    counted = await three.counted()
    assert sum(value for key, value in counted.items() if key[0] == FALLBACKS) == 2
    in_flight = [value for key, value in counted.items() if key[0] == "llm_gateway_in_flight"]
    assert not any(in_flight)


@pytest.mark.parametrize("fault", ["too_long", "bad_value"])
async def test_the_clients_fault_is_no_reason(three: Three, fault: str) -> None:
    with pytest.raises(openai.BadRequestError):
        await three.ask(fault=fault)
    assert not three.engines[1].bodies


async def test_what_was_shortened_for_one_model_is_whole_for_the_next(tmp_path: Path) -> None:
    messages: Any = [{"role": "user", "content": f"{n} " + "word " * 50} for n in range(10)]
    async with running_engine() as gone, running_engine() as other:
        gone.server.close()
        small = {"max_input_tokens": 200, "context_overflow": "drop_oldest", "fallbacks": ["big"]}
        models = [
            {"id": "small", "replicas": [f"http://127.0.0.1:{gone.port}"]} | small,
            {"id": "big", "replicas": [f"http://127.0.0.1:{other.port}"]},
        ]
        async with (
            running_gateway(tmp_path, gone, models=models) as (_, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            raw = await client.chat.completions.with_raw_response.create(
                model="small", messages=messages
            )
    assert raw.headers["x-fallback-model"] == "big"
    assert "x-dropped-messages" not in raw.headers
    assert other.bodies[0]["messages"] == messages


async def test_a_stream_that_has_begun_stays_with_its_model(three: Three) -> None:
    with pytest.raises(openai.APIError) as caught:
        await three.ask(fault="reset_in_stream", stream=True)
    assert caught.value.code == "engine_truncated"
    assert not three.engines[1].bodies


async def test_too_much_going_on_is_no_reason(three: Three) -> None:
    stream = await three.client.chat.completions.create(
        model="first", messages=MESSAGES, stream=True, extra_body={"tokens": 1000, "pause": 0.05}
    )
    async with stream:
        await anext(aiter(stream))
        with pytest.raises(openai.RateLimitError):
            await three.ask()
    assert not three.engines[1].bodies


async def test_a_fallback_that_cannot_do_what_was_asked_is_passed_over(three: Three) -> None:
    """Here: it does not fit into theirs. The error is that of the model that was asked for."""
    three.engines[0].server.close()
    with pytest.raises(openai.APIStatusError) as caught:
        await three.ask(fault="too_long")
    assert caught.value.status_code == 503
    assert len(three.engines[1].bodies) == len(three.engines[2].bodies) == 1
