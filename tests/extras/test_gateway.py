"""The gateway with models in its own process, and OpenAI's client in front of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from api_server.inference.handlers.threads import Threads
from tests.extras.conftest import SHIPPED, until
from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, running_gateway
from tests.wire import assert_valid

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
MODELS = ["tiny-hf", "tiny-gguf"]


@pytest.fixture
async def stack(folder: Path, tmp_path: Path) -> AsyncIterator[Stack]:
    models = [
        {"id": "tiny-hf", "engine": "transformers", "path": str(folder), "load": "on_demand"},
        {"id": "tiny-gguf", "engine": "llama-cpp", "path": str(SHIPPED), "load": "on_demand"},
    ]
    timeouts = {"first_token_seconds": 20, "queue_seconds": 5, "total_seconds": 60}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, models=models, timeouts=timeouts) as (gateway, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Stack(engine, gateway, url, client)


@pytest.mark.parametrize("model", MODELS)
async def test_a_chat_is_answered_whole(stack: Stack, model: str) -> None:
    answer = await stack.client.chat.completions.create(model=model, messages=FRANCE, temperature=0)
    assert_valid("CreateChatCompletionResponse", answer.model_dump(exclude_unset=True))
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (18, 10)


@pytest.mark.parametrize("model", MODELS)
async def test_a_chat_is_streamed(stack: Stack, model: str) -> None:
    stream = await stack.client.chat.completions.create(
        model=model,
        messages=FRANCE,
        temperature=0,
        stop=" Paris",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk.model_dump(exclude_unset=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital of France is"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 18


@pytest.mark.parametrize("model", MODELS)
async def test_a_text_is_continued(stack: Stack, model: str) -> None:
    answer = await stack.client.completions.create(
        model=model, prompt="Hello", max_tokens=3, temperature=0
    )
    assert answer.choices[0].text == "Hello" * 3
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("seed", 1),
        ("n", 2),
        ("frequency_penalty", 0.5),
        ("min_p", 0.5),
    ],
)
async def test_what_cannot_be_honoured_is_a_400_that_names_it(
    stack: Stack, model: str, field: str, value: object
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await stack.client.chat.completions.create(
            model=model, messages=FRANCE, extra_body={field: value}
        )
    assert raised.value.param == field


async def test_beams_are_for_transformers_only(stack: Stack) -> None:
    ask = stack.client.chat.completions.create
    beams = {"num_beams": 3, "do_sample": False}
    answer = await ask(model="tiny-hf", messages=FRANCE, extra_body=beams)
    assert answer.choices[0].message.content == ANSWER
    with pytest.raises(openai.BadRequestError) as raised:
        await ask(model="tiny-gguf", messages=FRANCE, extra_body=beams)
    assert raised.value.param == "num_beams"


@pytest.mark.parametrize("model", MODELS)
async def test_a_chat_that_is_too_long_is_a_400_with_the_numbers(stack: Stack, model: str) -> None:
    long: Any = [{"role": "user", "content": "hello there " * 3000}]
    with pytest.raises(openai.BadRequestError, match="2048 tokens") as raised:
        await stack.client.chat.completions.create(model=model, messages=long)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.param == "messages"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "plain"])
async def test_a_client_that_leaves_ends_the_generation(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, model: str, is_stream: bool
) -> None:
    """Seconds of work would be left; its thread ends at once, and the next client is served."""
    made: list[Threads[Any]] = []
    init = Threads.__init__

    def remember(threads: Threads[Any], count: int, name: str) -> None:
        made.append(threads)
        init(threads, count, name)

    monkeypatch.setattr(Threads, "__init__", remember)
    ask: asyncio.Task[Any] = asyncio.create_task(
        stack.client.completions.create(
            model=model, prompt="Hello", max_tokens=2000, temperature=0, stream=is_stream
        )
    )
    await until(lambda: bool(made) and made[0].running == 1)
    if is_stream:
        stream = await ask
        await anext(aiter(stream))
        await stream.close()
    else:
        ask.cancel()
        await asyncio.wait({ask})
    await until(lambda: made[0].running == 0, seconds=0.5)
    answer = await stack.client.chat.completions.create(model=model, messages=FRANCE, temperature=0)
    assert answer.choices[0].message.content == ANSWER
