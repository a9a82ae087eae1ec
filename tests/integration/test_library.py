"""The library over an engine that misbehaves, without a gateway between them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    ResourceNotAvailableError,
    TruncatedAnswerError,
)
from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.engines import LLAMA_SERVER, OPENAI
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.service import LLMInferenceService
from tests.fake_engine import FakeEngine, running_engine

TIMEOUTS = Timeouts(
    queue_seconds=0.3,
    connect_seconds=0.3,
    first_token_seconds=0.3,
    idle_seconds=0.3,
    total_seconds=2,
)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine() as engine:
        yield engine


@asynccontextmanager
async def service_over(
    engine: FakeEngine, **defaults: bool | float | str
) -> AsyncIterator[LLMInferenceService]:
    """`defaults` are fields of every body: what the engine is to play."""
    model = Model(
        id="fake",
        engine=LLAMA_SERVER,
        replicas=(f"http://127.0.0.1:{engine.port}",),
        timeouts=TIMEOUTS,
        defaults=defaults,
    )
    async with LLMModelManager([model]) as manager:
        yield LLMInferenceService(manager)


def request(**fields: Any) -> InferenceRequest:
    messages = [{"role": "user", "content": "hi"}]
    return InferenceRequest(model_id="fake", messages=messages, **fields)


async def comes_to_rest(engine: FakeEngine) -> None:
    async with asyncio.timeout(1):
        while engine.running:
            await asyncio.sleep(0.005)


async def test_plain_and_streamed(engine: FakeEngine) -> None:
    async with service_over(engine, tokens=4) as service:
        response = await service.infer(request(request_id="my-id"))
        assert (response.generated_text, response.finish_reason) == ("xxxx", "stop")
        assert (response.prompt_tokens, response.generated_tokens) == (3, 4)
        assert [chunk async for chunk in service.stream(request())] == ["x"] * 4
    assert "x-request-id: my-id" in engine.heads[0]
    assert engine.bodies[0]["stream"] is True


@pytest.mark.parametrize(
    ("fault", "error", "begins"),
    [
        ("error_500", InferenceError, False),
        ("error_429", ResourceNotAvailableError, False),
        ("loading_503", ResourceNotAvailableError, False),
        ("too_long", ContextLengthError, False),
        ("bad_value", InvalidRequestError, False),
        ("error_body_with_200", InferenceError, False),
        ("garbage", InferenceError, False),
        ("not_http", InferenceError, False),
        ("reset", InferenceError, False),
        ("hang_before_headers", EngineTimeoutError, False),
        ("hang_after_headers", EngineTimeoutError, False),
        ("error_event_first", InferenceError, False),
        ("half_event_then_stall", EngineTimeoutError, True),
        ("reset_in_stream", TruncatedAnswerError, True),
        ("close_in_stream", TruncatedAnswerError, True),
        ("end_without_done", TruncatedAnswerError, True),
        ("error_event_in_stream", InferenceError, True),
    ],
)
async def test_every_fault_is_an_error_of_ours_and_leaves_nothing_behind(
    engine: FakeEngine, fault: str, error: type[ApiError], begins: bool
) -> None:
    async with service_over(engine, fault=fault) as service:
        with pytest.raises(error):
            await service.infer(request())
        told = await service.process_inference(request())
        assert isinstance(told, InferenceResponse)
        assert told.error_message
        assert "secret" not in told.error_message
        stream = await service.process_inference(request(stream=True))
        assert isinstance(stream, AsyncGenerator)
        *text, last = [chunk async for chunk in stream]
        assert bool(text) == begins
        assert last.startswith("STREAM_ERROR: ")
        assert service.in_flight == []
        await comes_to_rest(engine)


async def test_a_stop_sequence_frees_the_engine(engine: FakeEngine) -> None:
    async with service_over(engine, tokens=1000, pause=0.005) as service:
        response = await service.infer(request(stop_sequences=["xxx"]))
        assert (response.generated_text, response.finish_reason) == ("", "stop_sequence")
        assert response.generated_tokens == 3, "one for each event, where the engine tells nothing"
        assert response.prompt_tokens is None
        await comes_to_rest(engine)
        assert engine.finished == 0


async def test_leaving_a_stream_frees_the_engine(engine: FakeEngine) -> None:
    async with service_over(engine, tokens=1000, pause=0.005) as service:
        stream = service.stream(request())
        assert await anext(stream) == "x"
        assert engine.running == 1
        await stream.aclose()
        await comes_to_rest(engine)


async def test_the_total_time_frees_the_engine(engine: FakeEngine) -> None:
    async with service_over(engine, tokens=1000, pause=0.05) as service:
        with pytest.raises(EngineTimeoutError, match="longer than the 2 s allowed"):
            await service.infer(request())
        await comes_to_rest(engine)


async def test_a_parameter_that_the_engine_lacks_never_reaches_it(engine: FakeEngine) -> None:
    model = Model(id="fake", engine=OPENAI, replicas=(f"http://127.0.0.1:{engine.port}",))
    async with LLMModelManager([model]) as manager:
        response = await LLMInferenceService(manager).process_inference(
            request(params={"top_k": 5})
        )
        assert isinstance(response, InferenceResponse)
        assert (response.error_message or "").startswith("Configuration error: top_k is 5")
    assert not engine.bodies


async def test_our_own_limit_is_kept_over_http(engine: FakeEngine) -> None:
    """Counted by llama-server; by estimate where the engine cannot count."""
    talk = [{"role": "user", "content": f"{n} " + "word " * 200} for n in range(40)]
    for kind in (LLAMA_SERVER, OPENAI):
        model = Model(
            id="fake",
            engine=kind,
            replicas=(f"http://127.0.0.1:{engine.port}",),
            max_input_tokens=4096,
            context_overflow="drop_oldest",
        )
        async with LLMModelManager([model]) as manager:
            long = InferenceRequest(model_id="fake", messages=talk)
            await LLMInferenceService(manager).infer(long)
    counted, whole, shortened = engine.bodies  # the fake engine counts three tokens
    assert counted["messages"] == whole["messages"] == talk
    assert 5 < len(shortened["messages"]) < 30
    assert shortened["messages"] == talk[-len(shortened["messages"]) :]
