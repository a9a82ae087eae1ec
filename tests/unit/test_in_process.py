"""Models in this process, as the gateway sees them: OpenAI's bodies in, OpenAI's events out."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from api_server.errors import (
    ApiError,
    ConfigurationError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    ResourceNotAvailableError,
)
from api_server.inference import sse
from api_server.inference.catalogue import Timeouts
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.in_process.wire import InProcessWire
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.wire import Call
from api_server.services.folding import Fold
from api_server.services.requests import Kind
from tests.fake_handler import FakeHandler, fake_model
from tests.wire import assert_valid

CHAT, TEXT = Kind.CHAT.value, Kind.TEXT.value
MESSAGES = [{"role": "user", "content": "hi"}]
SECONDS = 5.0


def call(path: str = CHAT, **fields: Any) -> Call:
    given = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    body = {"model": "fake", **given, **fields}
    return Call(path, json.dumps(body).encode(), "request-1")


@asynccontextmanager
async def wire_of(handler: FakeHandler, **fields: Any) -> AsyncIterator[InProcessWire]:
    model = fake_model(load="on_demand", **fields)
    async with LLMModelManager([model], [handler], busy_seconds=SECONDS) as manager:
        wire = manager.wire("fake")
        assert isinstance(wire, InProcessWire)
        yield wire


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def read(wire: InProcessWire, asked: Call) -> list[dict[str, Any]]:
    """The decoded chunks of a whole stream, which must end with [DONE]."""
    stream = await wire.open_stream(asked)
    try:
        blocks = [stream.first]
        while blocks[-1]:
            blocks.append(await stream.next_block())
    finally:
        stream.close()
    payloads = list(sse.payloads(b"".join(blocks)))
    assert payloads[-1] == sse.DONE
    return [json.loads(payload) for payload in payloads[:-1]]


def summary(**fields: Any) -> InferenceResponse:
    return InferenceResponse(request_id="request-1", model_id="fake", **fields)


COUNTED = summary(finish_reason="length", prompt_tokens=3, generated_tokens=2)


async def test_a_chat_is_openais_stream() -> None:
    async with wire_of(FakeHandler(pieces=("one ", "two", COUNTED))) as wire:
        chunks = await read(wire, call(stream_options={"include_usage": True}))
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk)
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], "fake")
    }
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "one "},
        {"content": "two"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [
        *(None, None, None),
        "length",
    ]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_a_text_is_openais_stream() -> None:
    async with wire_of(FakeHandler(pieces=("one ", "two"))) as wire:
        chunks = await read(wire, call(TEXT, stream_options={"include_usage": True}))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["one ", "two", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "usage" not in chunks[-1], "nobody has counted"


async def test_usage_is_told_only_where_it_is_wanted() -> None:
    async with wire_of(FakeHandler(pieces=("a", COUNTED))) as wire:
        chunks = await read(wire, call())
    assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_whole_answer_is_what_the_stream_folds_to(path: str) -> None:
    async with wire_of(FakeHandler(pieces=("one ", "two", COUNTED))) as wire:
        whole = json.loads(await wire.ask(call(path)))
        chunks = await read(wire, call(path, stream_options={"include_usage": True}))
    assert_valid(
        "CreateChatCompletionResponse" if path == CHAT else "CreateCompletionResponse", whole
    )
    fold = Fold(Kind(path))
    for chunk in chunks:
        fold.add(chunk)
    folded = fold.answer()
    assert whole["usage"].items() <= folded["usage"].items()
    changing = {"id": None, "created": None, "usage": None}
    assert whole | changing == folded | changing


async def test_an_empty_answer_has_a_first_event_too() -> None:
    async with wire_of(FakeHandler(pieces=())) as wire:
        chunks = await read(wire, call())
        whole = json.loads(await wire.ask(call()))
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert whole["choices"][0]["message"]["content"] == ""


async def test_a_stop_sequence_across_pieces_ends_the_handler() -> None:
    handler = FakeHandler(pieces=("one t", "wo thr", "ee ", "four "), pause=0.001)
    async with wire_of(handler) as wire:
        chunks = await read(wire, call(stop=["never", "two three"]))
        assert handler.running == 0
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "one "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_library_is_asked_for_what_the_body_says() -> None:
    handler = FakeHandler()
    async with wire_of(handler) as wire:
        await wire.ask(
            call(
                max_completion_tokens=7,
                temperature=0.5,
                top_p=0.9,
                top_k=3,
                repetition_penalty=1.1,
                num_beams=2,
                stop="x",
                user="me",
            )
        )
        await wire.ask(call(TEXT, prompt=["hello"]))
    first, second = handler.requests
    assert first.messages == MESSAGES
    assert first.stop_sequences == ["x"]
    assert first.request_id == "request-1"
    assert first.params.model_dump() == {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "repetition_penalty": 1.1,
        "do_sample": True,
        "num_beams": 2,
        "early_stopping": False,
    }
    assert second.prompt == "hello"
    assert second.params.max_new_tokens is None, "a chat goes on until the model ends it"


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "min_p", 0.1),
        (CHAT, "grammar", "root ::= x"),
        (CHAT, "repetition_penalty", 0.5),
        (CHAT, "num_beams", 0),
        (CHAT, "max_completion_tokens", 0),
        (CHAT, "stop", [""]),
        (TEXT, "prompt", ["a", "b"]),
        (TEXT, "prompt", [1, 2]),
        (TEXT, "logprobs", 0),
    ],
)
async def test_what_cannot_be_honoured_names_its_field(path: str, field: str, value: Any) -> None:
    handler = FakeHandler()
    async with wire_of(handler) as wire:
        for ask in (wire.ask, wire.open_stream):
            with pytest.raises(InvalidRequestError, match=field) as raised:
                await ask(call(path, **{field: value}))
            assert raised.value.param == field
    assert handler.diary == []


async def test_closing_a_stream_ends_the_generation() -> None:
    handler = FakeHandler(pieces=("x",) * 1000, pause=0.001)
    async with wire_of(handler) as wire:
        stream = await wire.open_stream(call())
        assert handler.running == 1
        stream.close()
        await until(lambda: handler.running == 0)


async def test_a_reader_that_does_not_read_holds_the_handler_back() -> None:
    handed_over = 0

    class Eager(FakeHandler):
        async def stream_infer(self, *_: object) -> Any:
            nonlocal handed_over
            for handed_over in range(10_000):  # noqa: B007 - read outside
                yield "x"

    async with wire_of(Eager()) as wire:
        stream = await wire.open_stream(call())
        await asyncio.sleep(0.05)
        assert handed_over < 200
        stream.close()


@pytest.mark.parametrize("pieces", [("x",) * 1000, ()], ids=["generating", "before the first"])
async def test_cancelling_ends_the_generation(pieces: tuple[str, ...]) -> None:
    handler = FakeHandler(pieces=pieces or ("x",), pause=0.001 if pieces else SECONDS)
    async with wire_of(handler) as wire:
        for ask in (wire.ask, wire.open_stream) if not pieces else (wire.ask,):
            task = asyncio.ensure_future(ask(call()))
            await until(lambda: handler.running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: handler.running == 0)


async def test_the_end_of_the_wire_ends_all() -> None:
    handler = FakeHandler(pieces=("x",) * 1000, pause=0.001)
    async with wire_of(handler) as wire:
        streams = [await wire.open_stream(call()) for _ in range(3)]
        await wire.aclose()
        assert handler.running == 0
        for stream in streams:
            stream.close()


async def test_no_first_token_in_time() -> None:
    timeouts = Timeouts(first_token_seconds=0.05)
    async with wire_of(FakeHandler(pause=SECONDS), timeouts=timeouts) as wire:
        for ask in (wire.ask, wire.open_stream):
            with pytest.raises(EngineTimeoutError, match="no first token"):
                await ask(call())


async def test_loading_is_not_part_of_the_first_tokens_time() -> None:
    handler = FakeHandler()
    handler.may_load.clear()
    async with wire_of(handler, timeouts=Timeouts(first_token_seconds=0.05)) as wire:
        task = asyncio.ensure_future(wire.ask(call()))
        await asyncio.sleep(0.2)
        handler.may_load.set()
        assert b"three" in await task


async def test_nothing_more_in_time() -> None:
    class Stalls(FakeHandler):
        async def stream_infer(self, *_: object) -> Any:
            yield "one"
            await asyncio.sleep(SECONDS)

    async with wire_of(Stalls(), timeouts=Timeouts(idle_seconds=0.05)) as wire:
        stream = await wire.open_stream(call())
        with pytest.raises(EngineTimeoutError, match="nothing more"):
            await stream.next_block()
        stream.close()


async def test_the_total_time_bounds_a_whole_answer() -> None:
    handler = FakeHandler(pieces=("x",) * 1000, pause=0.01)
    async with wire_of(handler, timeouts=Timeouts(total_seconds=0.1)) as wire:
        with pytest.raises(EngineTimeoutError, match=r"0\.1 s allowed"):
            await wire.ask(call())
        await until(lambda: handler.running == 0)


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (ContextLengthError(9, 8), ContextLengthError, "8 tokens"),
        (ConfigurationError("no beams here"), InvalidRequestError, "no beams here"),
        (ZeroDivisionError("secret"), InferenceError, r"failed \(ZeroDivisionError\)\.$"),
        (asyncio.CancelledError(), InferenceError, "cancelled the request itself"),
    ],
)
async def test_faults_before_the_first_piece_are_errors_of_the_request(
    fault: Exception, expected: type[ApiError], message: str
) -> None:
    async with wire_of(FakeHandler(pieces=(), fault=fault)) as wire:
        for ask in (wire.ask, wire.open_stream):
            with pytest.raises(expected, match=message):
                await ask(call())


async def test_a_fault_in_the_middle_comes_after_what_was_before_it() -> None:
    async with wire_of(FakeHandler(pieces=("one ",), fault=ValueError("broken"))) as wire:
        stream = await wire.open_stream(call())
        assert b"one " in stream.first
        with pytest.raises(InferenceError, match="ValueError"):
            await stream.next_block()
        stream.close()


async def test_a_summary_that_is_an_error_is_one() -> None:
    pieces = (summary(error_message="the model is ill", finish_reason="error"),)
    async with wire_of(FakeHandler(pieces=pieces)) as wire:
        with pytest.raises(InferenceError, match="the model is ill"):
            await wire.open_stream(call())


@pytest.mark.parametrize("piece", [None, 5, b"bytes", ["text"]])
async def test_a_piece_that_is_no_answer_is_told(piece: Any) -> None:
    async with wire_of(FakeHandler(pieces=(piece,))) as wire:
        for ask in (wire.ask, wire.open_stream):
            with pytest.raises(InferenceError, match=f"gave a {type(piece).__name__} where"):
                await ask(call())


async def test_a_model_that_is_set_up_wrongly_does_not_tell_clients_why() -> None:
    fault = ConfigurationError("models.fake.path: /secret/place is no folder")
    async with wire_of(FakeHandler(load_fault=fault)) as wire:
        for ask in (wire.ask, wire.count_tokens):
            with pytest.raises(InferenceError, match="not set up") as raised:
                await ask(call())
            assert "secret" not in str(raised.value)


async def test_room_in_memory_is_waited_for_until_the_deadline() -> None:
    handler = FakeHandler(sizes={"fake": 100})
    free = 0
    heard: list[ApiError] = []
    manager = LLMModelManager(
        [fake_model(load="on_demand")],
        [handler],
        free_memory_bytes=lambda: free,
        margin_bytes=0,
    )
    async with manager:
        asked = call()
        asked.on_retry = heard.append
        with pytest.raises(ResourceNotAvailableError):
            await manager.wire("fake").ask(asked)
        assert heard == []
        asked.deadline = asyncio.get_running_loop().time() + SECONDS
        task = asyncio.ensure_future(manager.wire("fake").ask(asked))
        await until(lambda: len(heard) == 1)
        free = 100
        assert b"three" in await task


async def test_tokens_are_counted_where_the_handler_can() -> None:
    class Counts(FakeHandler):
        async def count_tokens(self, _loaded: LoadedModel, request: InferenceRequest) -> int:
            return len(request.messages or ())

    class Cancels(FakeHandler):
        async def count_tokens(self, *_: object) -> int:
            raise asyncio.CancelledError

    async with wire_of(Cancels()) as wire:
        with pytest.raises(InferenceError, match="cancelled the request itself"):
            await wire.count_tokens(call())
    async with wire_of(FakeHandler()) as wire:
        assert await wire.count_tokens(call()) is None
    async with wire_of(Counts()) as wire:
        assert await wire.count_tokens(call()) == 1


async def test_ready_means_that_a_token_could_be_served() -> None:
    handler = FakeHandler()
    models = [fake_model("lazy", load="on_demand"), fake_model("eager", load="at_start")]
    async with LLMModelManager(models, [handler]) as manager:
        lazy, eager = manager.wire("lazy"), manager.wire("eager")
        assert await lazy.is_ready()
        assert not await eager.is_ready()
        handler.may_load.clear()
        loading = asyncio.ensure_future(manager.load_configured_models())
        await until(lambda: handler.diary == ["load eager"])
        assert not await eager.is_ready()
        handler.may_load.set()
        await loading
        assert await eager.is_ready()
        await manager.unload("eager")
        assert await eager.is_ready(), "it was loaded once, and can be again"
        handler.load_fault = ConfigurationError("gone")
        with pytest.raises(ConfigurationError):
            await manager.load("lazy")
        assert not await lazy.is_ready()
