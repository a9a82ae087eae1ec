"""What models in this process promise beyond the contract, whichever library runs them."""

import asyncio
import dataclasses
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from api_server.errors import (
    ConfigurationError,
    ContextLengthError,
    InvalidRequestError,
    ResourceNotAvailableError,
)
from api_server.inference.catalogue import Model
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams
from tests.extras.conftest import Served, handler_of, until

FRANCE = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
ENDLESS = "Hello"
"""Continued greedily, the tiny model repeats it until its context is full: seconds of work."""

CONTEXT = 2048
UNBOUND = GenerationParams(do_sample=False, max_new_tokens=None)


async def test_a_question_is_answered(served: Served) -> None:
    answer = await served.handler.infer(served.loaded, served.request(FRANCE, request_id="r"))
    assert answer.generated_text == ANSWER
    assert answer.finish_reason == "stop"
    assert (answer.prompt_tokens, answer.generated_tokens) == (18, 10)
    assert (answer.request_id, answer.model_id) == ("r", served.loaded.model_id)
    assert answer.inference_time_ms
    assert answer.inference_time_ms > 0


async def test_a_stream_is_the_same_text_in_pieces(served: Served) -> None:
    for question in (FRANCE, "Tell me a story about a bird.", "Hi!"):
        pieces, _ = await served.pieces(served.request(question))
        whole = await served.handler.infer(served.loaded, served.request(question))
        assert "".join(pieces) == whole.generated_text
        assert len(pieces) > 3
        assert all(pieces)


async def test_pieces_come_while_the_model_still_writes(served: Served) -> None:
    request = served.request(prompt=ENDLESS, params=UNBOUND)
    async with aclosing(served.handler.stream_infer(served.loaded, request)) as pieces:
        assert await anext(pieces)
        assert served.running == 1


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["ance is"], "The capital of Fr"),  # begins and ends within pieces
        (["nowhere", " Paris"], "The capital of France is"),
        (["T"], ""),
        (["is."], "The capital of France is Par"),
        (["Paris.!"], ANSWER),  # held back until the end, and then text after all
    ],
)
async def test_a_stop_sequence_ends_the_text_before_it(
    served: Served, stops: list[str], text: str
) -> None:
    pieces, summary = await served.pieces(served.request(FRANCE, stop_sequences=stops))
    assert "".join(pieces) == text
    assert summary.finish_reason == ("stop" if text == ANSWER else "stop_sequence")
    assert summary.prompt_tokens == 18
    assert summary.generated_tokens is not None
    assert 1 <= summary.generated_tokens <= 10


async def test_the_start_token_stands_once_whoever_writes_it(served: Served) -> None:
    counts = [
        await served.handler.count_tokens(served.loaded, served.request(prompt=prompt))
        for prompt in ("Hello", "<|begin_of_text|>Hello")
    ]
    assert counts == [2, 2]
    chat = served.request(FRANCE)
    assert await served.handler.count_tokens(served.loaded, chat) == 18


async def test_a_prompt_is_continued_as_it_stands(served: Served) -> None:
    prompt = (
        "<|start_header_id|>user<|end_header_id|>\n\n"
        f"{FRANCE}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThe capital of"
    )
    answer = await served.handler.infer(served.loaded, served.request(prompt=prompt))
    assert answer.generated_text == " France is Paris."


async def test_characters_of_several_tokens_come_whole(served: Served) -> None:
    params = GenerationParams(temperature=2.0, top_k=0, top_p=1.0, max_new_tokens=300)
    pieces, summary = await served.pieces(served.request(prompt="é 世界 🌍", params=params))
    assert len(pieces) <= (summary.generated_tokens or 0)
    assert all(pieces)


async def test_sampling_differs_and_greedy_does_not(served: Served) -> None:
    async def ask(params: GenerationParams) -> str | None:
        request = served.request(prompt="One day", params=params)
        return (await served.handler.infer(served.loaded, request)).generated_text

    hot = GenerationParams(temperature=2.0, top_k=0, top_p=1.0, max_new_tokens=30)
    assert len({await ask(hot) for _ in range(4)}) == 4
    zero = GenerationParams(temperature=0.0, max_new_tokens=30)
    tiny = GenerationParams(temperature=1e-9, max_new_tokens=30)
    one = GenerationParams(temperature=2.0, top_k=1, max_new_tokens=30)
    nucleus = GenerationParams(temperature=2.0, top_p=0.0, max_new_tokens=30)
    greedy = GenerationParams(do_sample=False, max_new_tokens=30)
    assert len({await ask(params) for params in (zero, tiny, one, nucleus, greedy, greedy)}) == 1


async def test_a_repetition_penalty_makes_it_repeat_less(served: Served) -> None:
    async def ask(penalty: float) -> str:
        params = GenerationParams(do_sample=False, max_new_tokens=40, repetition_penalty=penalty)
        request = served.request(prompt=ENDLESS, params=params)
        return (await served.handler.infer(served.loaded, request)).generated_text or ""

    assert await ask(1.0) == "Hello" * 40
    assert "HelloHello" not in (await ask(1.8))[5:]


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(served: Served) -> None:
    with pytest.raises(ContextLengthError) as raised:
        await served.handler.infer(served.loaded, served.request("hello there " * 3000))
    assert raised.value.context_tokens == CONTEXT
    assert raised.value.prompt_tokens is not None
    assert raised.value.prompt_tokens > 6000
    assert served.running == 0


async def test_a_context_may_be_smaller_than_the_models(model: Model) -> None:
    small = dataclasses.replace(model, context_tokens=32)
    handler = handler_of(small)
    async with LLMModelManager([small]) as manager, manager.use(small.id) as loaded:
        served = Served(handler, loaded)
        answer = await handler.infer(loaded, served.request(prompt=ENDLESS, params=UNBOUND))
        assert answer.finish_reason == "length"
        assert (answer.prompt_tokens or 0) + (answer.generated_tokens or 0) == 32
        with pytest.raises(ContextLengthError, match="32 tokens"):
            await handler.infer(loaded, served.request(prompt=ENDLESS * 40))


async def test_what_is_no_prompt_is_refused(served: Served) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    for fields in ({"messages": picture}, {"messages": [{"content": "no role"}]}):
        with pytest.raises(InvalidRequestError) as raised:
            await served.handler.infer(served.loaded, served.request(**fields))
        assert raised.value.param == "messages"


async def test_closing_ends_the_generation_within_milliseconds(served: Served) -> None:
    request = served.request(prompt=ENDLESS, params=UNBOUND)
    stream = served.handler.stream_infer(served.loaded, request)
    assert await anext(stream)
    await asyncio.sleep(0.2)
    assert served.running == 1, "it waits for its reader"
    began = time.monotonic()
    await stream.aclose()
    assert time.monotonic() - began < 0.05
    await until(lambda: served.running == 0, seconds=0.5)


async def test_concurrent_requests_get_their_own_answers(served: Served) -> None:
    countries = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
    asked = list(countries) * 3
    answers = await asyncio.gather(
        *(
            served.handler.infer(
                served.loaded, served.request(f"What is the capital of {country}?")
            )
            for country in asked
        )
    )
    for country, answer in zip(asked, answers, strict=True):
        assert answer.generated_text == f"The capital of {country} is {countries[country]}."


async def test_a_model_that_does_not_fit_is_not_loaded(model: Model) -> None:
    needed = handler_of(model).needed_bytes(model)
    manager = LLMModelManager([model], free_memory_bytes=lambda: needed - 1, margin_bytes=0)
    async with manager:
        with pytest.raises(ResourceNotAvailableError, match="MiB"):
            await manager.load(model.id)
    manager = LLMModelManager([model], free_memory_bytes=lambda: needed, margin_bytes=0)
    async with manager:
        await manager.load(model.id)


async def test_a_model_comes_and_goes(model: Model) -> None:
    async with LLMModelManager([model]) as manager:
        for _ in range(3):
            async with manager.use(model.id) as loaded:
                served = Served(handler_of(model), loaded)
                answer = await served.handler.infer(loaded, served.request(FRANCE))
                assert answer.generated_text == ANSWER
            await manager.unload(model.id)


async def test_unloading_waits_for_what_was_left(model: Model) -> None:
    async with LLMModelManager([model]) as manager:
        async with manager.use(model.id) as loaded:
            served = Served(handler_of(model), loaded)
            request = served.request(prompt=ENDLESS, params=UNBOUND)
            stream = served.handler.stream_infer(loaded, request)
            await anext(stream)
            await stream.aclose()
        await manager.unload(model.id)
        assert served.running == 0


async def test_files_that_only_look_like_a_model_are_a_configuration_error(
    model: Model, tmp_path: Path
) -> None:
    empty = dataclasses.replace(model, path=tmp_path)
    with pytest.raises(ConfigurationError, match=rf"models\.{model.id}\.path"):
        await handler_of(model).load(empty)


async def test_greedy_is_the_default_of_a_model_that_says_so(model: Model) -> None:
    """The entry's defaults stand below the request, as they do for engines behind HTTP."""
    entry = dataclasses.replace(model, defaults={"temperature": 0.0, "max_tokens": 3})
    async with LLMModelManager([entry]) as manager, manager.use(entry.id) as loaded:
        served = Served(handler_of(entry), loaded)
        request = served.request(FRANCE, params=GenerationParams())
        answer = await served.handler.infer(loaded, request)
        assert answer.generated_text == "The capital of"
