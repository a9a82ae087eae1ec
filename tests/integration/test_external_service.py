"""The external service of AI_SERVICE_URL, played by the fake engine, which sees what arrives."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api_server.inference.estimating import estimate_chat
from tests.fake_engine import running_engine
from tests.folded import from_plain, from_stream, read_events
from tests.integration.conftest import Stack, running_gateway

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
QUESTION = {"role": "user", "content": "What is the capital of France?"}
SECONDS = 1.0


def long_talk(tokens: int) -> list[dict[str, str]]:
    """Alternating messages of about 100 tokens, about so many tokens in all."""
    roles = ("user", "assistant")
    return [
        {"role": roles[n % 2], "content": f"Number {n}: " + "conversation of words " * 25}
        for n in range(tokens // 100)
    ]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway with a model of its own and the service, which is the engine of the stack."""
    async with running_engine() as own, running_engine() as engine:
        variables = {
            "AI_SERVICE_URL": f"http://127.0.0.1:{engine.port}",
            "AI_SERVICE_API_KEY": "theirs",
            "ENGINE_API_KEY": "ours",
            "AI_SERVICE_TIMEOUT": str(SECONDS),
        }
        async with (
            running_gateway(tmp_path, own, variables=variables) as (gateway, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(engine, gateway, url, client)


async def ask(service: Stack, messages: list[dict[str, str]], **fields: Any) -> httpx.Response:
    body = {"model": "mistral-7b", "messages": messages} | fields
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.post(f"{service.url}/v1/chat/completions", json=body)


async def test_it_is_one_more_model(service: Stack) -> None:
    assert [model.id async for model in service.client.models.list()] == ["fake", "mistral-7b"]
    answer = await ask(service, [QUESTION])
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "xxxxx"
    own = await service.client.chat.completions.create(model="fake", messages=[QUESTION])  # type: ignore[list-item]
    assert own.choices[0].message.content == "xxxxx"


async def test_what_arrives_there_is_what_its_guide_describes(service: Stack) -> None:
    await ask(service, [QUESTION])
    body = service.engine.bodies[-1]
    assert body == {"model": "mistral-7b", "messages": [QUESTION], "max_tokens": 2048}
    head = service.engine.heads[-1].lower()
    assert head.startswith("post /v1/chat/completions ")
    assert "authorization: bearer theirs" in head


async def test_answers_are_capped(service: Stack) -> None:
    for asked, arrives in ((100, 100), (5000, 2048)):
        await ask(service, [QUESTION], max_completion_tokens=asked)
        assert service.engine.bodies[-1]["max_tokens"] == arrives


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_of_10000_tokens_is_answered_without_its_oldest_messages(
    service: Stack, stream: bool
) -> None:
    talk = long_talk(10_000)
    whole = estimate_chat(json.dumps([SYSTEM, *talk, QUESTION]).encode())
    assert whole > 10_000
    answer = await ask(service, [SYSTEM, *talk, QUESTION], stream=stream)
    assert answer.status_code == 200, answer.text
    folded = from_stream(read_events(answer.text)) if stream else from_plain(answer.json())
    assert folded["choices"][0]["text"] == "xxxxx"
    dropped = int(answer.headers["x-dropped-messages"])
    arrived = service.engine.bodies[-1]["messages"]
    assert arrived == [SYSTEM, *talk[dropped:], QUESTION]
    assert 3500 < estimate_chat(json.dumps(arrived).encode()) <= 4096


async def test_a_message_that_alone_is_too_long_is_400_with_both_numbers(service: Stack) -> None:
    answer = await ask(service, [SYSTEM, {"role": "user", "content": "conversation " * 4000}])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "holds 4096 tokens, and your input has 1" in error["message"]
    assert not service.engine.bodies, "the service was spared"


async def test_a_text_that_is_too_long_is_400(service: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await service.client.completions.create(model="mistral-7b", prompt="conversation " * 4000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize("stream", [False, True])
async def test_it_has_its_own_time_out(service: Stack, stream: bool) -> None:
    in_time = await ask(service, [QUESTION], stream=stream, tokens=2, first_pause=0.6)
    assert in_time.status_code == 200, "longer than other models of this gateway may take"
    late = await ask(service, [QUESTION], stream=stream, fault="hang_before_headers")
    assert late.status_code == 504
    assert f"{SECONDS:g} s" in late.json()["error"]["message"]


async def test_its_retry_after_is_passed_on(service: Stack) -> None:
    answer = await ask(service, [QUESTION], fault="error_429")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
