"""The service over a handler of words: answers, streams, stops, errors, what it tells of them."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from api_server.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    ModelNotFoundError,
    NoSuitableHandlerError,
    ResourceNotAvailableError,
    StackError,
)
from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.service import LLMInferenceService
from api_server.inference.tracking import StreamError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from tests.fake_handler import FakeHandler, fake_model
from tests.samples import samples

SUMMARY = InferenceResponse(
    request_id="r", model_id="fake", finish_reason="length", prompt_tokens=3, generated_tokens=7
)


def service_of(
    handler: FakeHandler, *, metrics: Metrics | None = None, **fields: Any
) -> LLMInferenceService:
    manager = LLMModelManager([fake_model(**fields)], free_memory_bytes=lambda: 0)
    return LLMInferenceService(manager, [handler], metrics)


def request(**fields: Any) -> InferenceRequest:
    given: dict[str, Any] = {"model_id": "fake", "request_id": "r"}
    if "messages" not in fields:
        given["prompt"] = "the secret prompt"
    return InferenceRequest(**(given | fields))


async def plain(service: LLMInferenceService, **fields: Any) -> InferenceResponse:
    response = await service.process_inference(request(**fields))
    assert isinstance(response, InferenceResponse)
    return response


async def streamed(service: LLMInferenceService, **fields: Any) -> list[str]:
    stream = await service.process_inference(request(stream=True, **fields))
    assert isinstance(stream, AsyncGenerator)
    return [chunk async for chunk in stream]


async def test_a_plain_answer() -> None:
    response = await plain(service_of(FakeHandler()))
    assert response.generated_text == "one two three"
    assert (response.finish_reason, response.error_message) == ("stop", None)
    assert (response.request_id, response.model_id) == ("r", "fake")
    assert response.inference_time_ms is not None
    assert response.inference_time_ms > 0


async def test_a_stream_of_chunks() -> None:
    assert await streamed(service_of(FakeHandler())) == ["one ", "two ", "three"]


async def test_the_handlers_summary_is_told() -> None:
    service = service_of(FakeHandler(pieces=["a", SUMMARY]))
    response = await plain(service)
    assert response.generated_text == "a"
    assert response.finish_reason == "length"
    assert (response.prompt_tokens, response.generated_tokens) == (3, 7)
    assert await streamed(service) == ["a"]
    text, last = [piece async for piece in service.pieces(request())]
    assert text == "a"
    assert isinstance(last, InferenceResponse)
    assert (last.finish_reason, last.generated_text) == ("length", None)
    assert last.inference_time_ms is not None


@pytest.mark.parametrize("stop", [["two"], ["e tw"], ["wo t", "three"]])
async def test_a_stop_sequence_ends_the_generation(stop: list[str]) -> None:
    handler = FakeHandler(pieces=["one ", "tw", "o ", "three"], fault=AssertionError("not ended"))
    service = service_of(handler)
    expected = "one two three"[: "one two three".find(stop[0])]
    response = await plain(service, stop_sequences=stop)
    assert (response.generated_text, response.finish_reason) == (expected, "stop_sequence")
    assert "".join(await streamed(service, stop_sequences=stop)) == expected
    assert handler.running == 0


async def test_a_handlers_own_infer_is_trimmed_too() -> None:
    class Whole(FakeHandler):
        async def infer(
            self, loaded_model: LoadedModel, request: InferenceRequest
        ) -> InferenceResponse:
            assert request.stop_sequences in (None, ["END"])
            text = f"{loaded_model.model_object}: END of it"
            return SUMMARY.model_copy(update={"generated_text": text})

    service = service_of(Whole())
    response = await plain(service, stop_sequences=["END"])
    assert response.generated_text == "the weights of fake: "
    assert response.finish_reason == "stop_sequence"
    assert (await plain(service)).finish_reason == "length"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (InferenceError("it broke"), "Inference error: it broke"),
        (ConfigurationError("top_k?"), "Configuration error: top_k?"),
        (ResourceNotAvailableError("away"), "Resource not available: away"),
        (EngineTimeoutError("slow"), "Time-out: slow"),
        (ZeroDivisionError("oops"), "FakeHandler failed (ZeroDivisionError: oops)."),
        (asyncio.CancelledError(), "Inference error: FakeHandler cancelled the request itself."),
    ],
)
async def test_errors_are_told_or_raised(fault: BaseException, told: str) -> None:
    service = service_of(FakeHandler(pieces=["one "], fault=fault))
    response = await plain(service)
    assert response.error_message is not None
    assert told in response.error_message
    assert (response.finish_reason, response.generated_text) == ("error", None)
    *text, last = await streamed(service)
    assert text == ["one "]
    assert last.startswith("STREAM_ERROR: ")
    assert told in last
    assert isinstance(last, StreamError)
    assert isinstance(last.error, StackError)
    with pytest.raises(type(last.error)):
        await service.infer(request())
    with pytest.raises(type(last.error)):
        _ = [chunk async for chunk in service.stream(request())]


@pytest.mark.parametrize("piece", [None, 5, b"bytes", ["text"]])
async def test_a_piece_that_is_no_answer_is_told(piece: Any) -> None:
    class Whole(FakeHandler):
        async def infer(self, *_: object) -> Any:
            return piece

    told = f"Inference error: The handler gave a {type(piece).__name__} where an answer is text"
    service = service_of(FakeHandler(pieces=["one ", piece]))
    assert told in ((await plain(service)).error_message or "")
    text, last = await streamed(service)
    assert text == "one "
    assert told in last
    assert told in ((await plain(service_of(Whole()))).error_message or "")


async def test_an_unknown_model() -> None:
    service = service_of(FakeHandler())
    response = await plain(service, model_id="nope")
    assert (response.error_message or "").startswith("Model not found: The model 'nope' does not")
    (only,) = await streamed(service, model_id="nope")
    assert only.startswith("STREAM_ERROR: Model not found: ")
    with pytest.raises(ModelNotFoundError):
        await service.infer(request(model_id="nope"))


async def test_a_model_that_does_not_fit() -> None:
    service = service_of(FakeHandler(sizes={"fake": 10**9}))
    assert "Resource not available: 'fake' needs about" in (await streamed(service))[0]


async def test_a_model_that_nobody_can_handle() -> None:
    service = LLMInferenceService(LLMModelManager([fake_model()]))
    with pytest.raises(NoSuitableHandlerError):
        await service.infer(request())
    service.register_handler(FakeHandler())
    assert (await service.infer(request())).generated_text == "one two three"


async def test_the_first_registered_handler_wins() -> None:
    first, second = FakeHandler(pieces=["first"]), FakeHandler(pieces=["second"])
    service = LLMInferenceService(LLMModelManager([fake_model()], [first]))
    service.register_handler(second)
    assert (await service.infer(request())).generated_text == "first"
    service = LLMInferenceService(LLMModelManager([fake_model()]), [second, first])
    assert (await service.infer(request())).generated_text == "second"


async def test_closing_a_stream_ends_the_generation() -> None:
    handler = FakeHandler(pieces=["x"] * 1000, pause=0.001)
    service = service_of(handler)
    stream = service.stream(request())
    assert await anext(stream) == "x"
    assert handler.running == 1
    assert [each.request_id for each in service.in_flight] == ["r"]
    assert service.in_flight[0].handler == "FakeHandler"
    await stream.aclose()
    assert handler.running == 0
    assert service.in_flight == []
    assert service.models.states()[0].users == 0


async def test_a_loop_that_is_left_ends_the_generation() -> None:
    handler = FakeHandler(pieces=["x"] * 1000, pause=0.001)
    stream = await service_of(handler).process_inference(request(stream=True))
    assert isinstance(stream, AsyncGenerator)
    async for _ in stream:
        break
    del stream
    async with asyncio.timeout(1):
        while handler.running:
            await asyncio.sleep(0.001)


async def test_cancelling_ends_the_generation() -> None:
    handler = FakeHandler(pieces=["x"] * 1000, pause=0.001)
    service = service_of(handler)
    task = asyncio.create_task(service.infer(request()))
    while not handler.running:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (handler.running, service.in_flight) == (0, [])


async def test_the_total_time_is_bounded() -> None:
    handler = FakeHandler(pieces=["x"] * 1000, pause=0.01)
    service = service_of(handler, timeouts=Timeouts(total_seconds=0.05))
    with pytest.raises(EngineTimeoutError, match=r"longer than the 0\.05 s"):
        await service.infer(request())
    chunks = await streamed(service)
    assert chunks[0] == "x"
    assert chunks[-1].startswith("STREAM_ERROR: Time-out: ")
    assert handler.running == 0


async def test_the_time_limit_hits_only_the_generation_never_who_reads_it() -> None:
    service = service_of(FakeHandler(), timeouts=Timeouts(total_seconds=0.02))
    stream = service.stream(request())
    assert await anext(stream) == "one "
    await asyncio.sleep(0.04)  # would be cancelled, were the limit around the `yield`
    with pytest.raises(EngineTimeoutError):
        await anext(stream)


async def test_a_time_out_of_the_handlers_own_is_no_limit_of_ours() -> None:
    service = service_of(FakeHandler(fault=TimeoutError("its own")))
    with pytest.raises(InferenceError, match="TimeoutError: its own"):
        await service.infer(request())
    with pytest.raises(InferenceError, match="TimeoutError: its own"):
        _ = [chunk async for chunk in service.stream(request())]


class Narrow(FakeHandler):
    """Takes three messages at most."""

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        self.requests.append(request)
        count = len(request.messages or ())
        if count > 3:
            raise ContextLengthError(count * 100, 300)
        yield loaded_model.model_id


CHAT = [{"role": "system", "content": "Be kind."}] + [
    {"role": ("user", "assistant")[number % 2], "content": f"message {number}"}
    for number in range(9)
]


async def test_a_chat_that_does_not_fit_loses_its_oldest_messages_where_that_is_wanted() -> None:
    handler = Narrow()
    wanting = service_of(handler, context_overflow="drop_oldest")
    assert (await wanting.infer(request(messages=CHAT))).generated_text == "fake"
    assert [each["content"] for each in handler.requests[-1].messages or ()] == [
        "Be kind.",
        "message 8",
    ]
    assert await streamed(wanting, messages=CHAT) == ["fake"]
    strict = service_of(Narrow())
    with pytest.raises(ContextLengthError):
        await strict.infer(request(messages=CHAT))
    assert (await strict.infer(request(messages=CHAT), drops_oldest=True)).generated_text == "fake"
    with pytest.raises(ContextLengthError):
        await wanting.infer(request(messages=CHAT), drops_oldest=False)


async def test_a_chat_of_which_nothing_may_go_does_not_fit() -> None:
    handler = Narrow()
    service = service_of(handler, context_overflow="drop_oldest")
    stubborn = [{"role": "system", "content": "x"}] * 4 + [{"role": "user", "content": "y"}]
    with pytest.raises(ContextLengthError):
        await service.infer(request(messages=stubborn))
    assert len(handler.requests) == 1


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == "inference"]


async def test_one_line_of_log_a_request_and_never_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    service = service_of(FakeHandler(pieces=["the secret answer", SUMMARY]))
    await plain(service)
    await streamed(service, request_id="s")
    await plain(service, model_id="nope")
    first, second, third = lines(caplog)
    fields = vars(first)
    assert (fields["request_id"], fields["model"], fields["handler"]) == (
        "r",
        "fake",
        "FakeHandler",
    )
    assert (fields["finish_reason"], fields["prompt_tokens"], fields["generated_tokens"]) == (
        "length",
        3,
        7,
    )
    assert fields["duration_ms"] > 0
    assert vars(second)["request_id"] == "s"
    assert vars(third)["error_code"] == "model_not_found"
    assert "secret" not in str([vars(line) for line in (first, second, third)])


async def test_errors_are_logged_at_their_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await plain(service_of(FakeHandler(fault=InferenceError("it broke"))))
    (line,) = lines(caplog)
    assert line.levelno == logging.WARNING
    assert vars(line)["outcome"] == "error"


async def test_requests_are_counted() -> None:
    numbers = Numbers()
    metrics = Metrics(["fake"], numbers)
    handler = FakeHandler(pieces=["a", SUMMARY])
    service = service_of(handler, metrics=metrics)
    await plain(service)
    await streamed(service)
    handler.fault = InferenceError("it broke")
    await plain(service)
    stream = service.stream(request())
    await anext(stream)
    await stream.aclose()
    got = samples(metrics.render())
    tokens = "gen_ai_client_token_usage_total"
    assert got[tokens, "fake", "output"] == 14
    assert got[tokens, "fake", "input"] == 6
    duration = "gen_ai_server_request_duration_seconds_count"
    assert got[duration, "", "text_completion", "fake"] == 2
    assert got[duration, "engine_error", "text_completion", "fake"] == 1
    assert got["llm_gateway_cancelled_total", "fake", "generating"] == 1


async def test_params_reach_the_handler() -> None:
    handler = FakeHandler()
    await plain(service_of(handler), params={"temperature": 0.1, "max_new_tokens": 5})
    assert handler.requests[0].params.temperature == 0.1


async def test_models_of_a_bare_entry(caplog: pytest.LogCaptureFixture) -> None:
    broken = Model(id="m", engine=fake_model().engine, handler="nothing")
    response = await LLMInferenceService(LLMModelManager([broken])).process_inference(
        InferenceRequest(model_id="m", prompt="p")
    )
    assert isinstance(response, InferenceResponse)
    assert "Configuration error: handler: 'nothing'" in (response.error_message or "")
    assert vars(lines(caplog)[-1])["error_code"] == "configuration_error"


async def test_a_chat_is_never_begun_anew_after_its_first_text() -> None:
    handler = FakeHandler(pieces=["one "], fault=ContextLengthError(500, 300))
    service = service_of(handler, context_overflow="drop_oldest")
    stream = service.stream(request(messages=CHAT))
    assert await anext(stream) == "one "
    with pytest.raises(ContextLengthError):
        await anext(stream)
    assert len(handler.requests) == 1


class Counting(FakeHandler):
    """Counts ten tokens a message."""

    async def count_tokens(self, _loaded: LoadedModel, request: InferenceRequest) -> int | None:
        return 10 * len(request.messages or ())


LONG_CHAT = [dict(each, content=each["content"] + " and more" * 20) for each in CHAT]


@pytest.mark.parametrize("handler", [Counting(), FakeHandler()])
async def test_a_chat_beyond_our_own_limit_is_shortened_before_the_model_is_asked(
    handler: FakeHandler,
) -> None:
    limit = 40 if isinstance(handler, Counting) else 250
    service = service_of(handler, max_input_tokens=limit, context_overflow="drop_oldest")
    await service.infer(request(messages=LONG_CHAT))
    await streamed(service, messages=LONG_CHAT)
    for each in handler.requests:
        kept = list(each.messages or ())
        assert 2 <= len(kept) <= 5
        assert kept == [LONG_CHAT[0], *LONG_CHAT[-len(kept) + 1 :]]
    assert len(handler.requests) == 2


async def test_what_is_beyond_our_own_limit_and_may_not_be_shortened_is_refused() -> None:
    handler = Counting()
    service = service_of(handler, max_input_tokens=40)
    with pytest.raises(ContextLengthError, match="holds 40 tokens, and your input has 100") as told:
        await service.infer(request(messages=LONG_CHAT))
    assert told.value.param == "messages"
    estimating = service_of(FakeHandler(), max_input_tokens=40, context_overflow="drop_oldest")
    with pytest.raises(ContextLengthError, match="by estimate") as told:
        _ = [piece async for piece in estimating.stream(request(prompt="word " * 200))]
    assert told.value.param == "prompt"
    assert handler.requests == []


async def test_what_a_model_cannot_count_now_is_estimated() -> None:
    class Away(FakeHandler):
        async def count_tokens(self, _loaded: LoadedModel, _: InferenceRequest) -> int | None:
            raise ResourceNotAvailableError("away")

    handler = Away()
    service = service_of(handler, max_input_tokens=250, context_overflow="drop_oldest")
    await service.infer(request(messages=LONG_CHAT))
    assert len(handler.requests[0].messages or ()) < len(LONG_CHAT)


async def test_the_time_limit_holds_for_counting_too() -> None:
    class Slow(FakeHandler):
        async def count_tokens(self, _loaded: LoadedModel, _: InferenceRequest) -> int | None:
            await asyncio.sleep(5)
            return 0

    service = service_of(Slow(), max_input_tokens=40, timeouts=Timeouts(total_seconds=0.02))
    with pytest.raises(EngineTimeoutError):
        await service.infer(request(messages=LONG_CHAT))
    with pytest.raises(EngineTimeoutError):
        _ = [piece async for piece in service.stream(request(messages=LONG_CHAT))]
