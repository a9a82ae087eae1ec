"""The gateway in front of a handler of one's own, named by its import path."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, running_gateway
from tests.wire import assert_valid

MESSAGES: Any = [{"role": "user", "content": "it works like the others"}]
SHOUTED = "IT WORKS LIKE THE OTHERS!!"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    entry = {
        "id": "shout",
        "engine": "custom",
        "handler": "examples.custom_handler:ShoutHandler",
        "options": {"ending": "!!"},
    }
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, models=[entry]) as (gateway, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Stack(engine, gateway, url, client)


async def test_it_is_listed_and_ready(stack: Stack) -> None:
    assert [model.id async for model in stack.client.models.list()] == ["shout"]
    async with httpx.AsyncClient(base_url=stack.url) as client:
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_chat_whole_and_streamed(stack: Stack) -> None:
    ask = stack.client.chat.completions.create
    whole = await ask(model="shout", messages=MESSAGES)
    assert_valid("CreateChatCompletionResponse", whole.model_dump(exclude_unset=True))
    assert whole.choices[0].message.content == SHOUTED
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 6)
    stream = await ask(
        model="shout", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk.model_dump(exclude_unset=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == SHOUTED
    assert len([piece for piece in pieces if piece]) == 6
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


async def test_a_text_and_a_stop_sequence_that_the_handler_does_not_know_of(stack: Stack) -> None:
    answer = await stack.client.completions.create(
        model="shout", prompt="it works like the others", stop="KE TH", max_tokens=100
    )
    assert answer.choices[0].text == "IT WORKS LI"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("seed", 5),
        ("min_p", 0.1),
    ],
)
async def test_what_no_handler_can_is_a_400_that_names_it(
    stack: Stack, field: str, value: object
) -> None:
    for is_stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            await stack.client.chat.completions.create(
                model="shout", messages=MESSAGES, stream=is_stream, extra_body={field: value}
            )
        assert raised.value.param == field


async def test_harmless_values_pass(stack: Stack) -> None:
    answer = await stack.client.chat.completions.create(
        model="shout",
        messages=MESSAGES,
        n=1,
        logprobs=False,
        presence_penalty=0,
        response_format={"type": "text"},
        user="me",
    )
    assert answer.choices[0].message.content == SHOUTED
