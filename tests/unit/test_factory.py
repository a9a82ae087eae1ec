"""Conversations with a local or a cloud model: history, functions, order, errors."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import pytest

from api_server.errors import ConfigurationError, ContextLengthError, InferenceError
from api_server.inference.conversations.factory import (
    MAX_ROUNDS,
    ConversationInference,
    InferenceFactory,
)
from api_server.inference.conversations.store import MemoryConversations
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import (
    GenerationParams,
    InferenceRequest,
    InferenceResponse,
    ToolCall,
)
from api_server.inference.service import LLMInferenceService
from tests.fake_handler import FakeHandler, fake_model

MODELS = [
    fake_model("embedder", serves="embeddings"),
    fake_model("small"),
    fake_model("second"),
    fake_model("big", location="cloud"),
]


def calls(*of: tuple[str, object]) -> InferenceResponse:
    """A summary that asks for functions."""
    return InferenceResponse(
        request_id="r",
        model_id="small",
        finish_reason="tool_calls",
        tool_calls=[
            ToolCall(id=f"call_{number}", name=name, arguments=json.dumps(arguments))
            for number, (name, arguments) in enumerate(of)
        ],
    )


class Script(FakeHandler):
    """Answers each request with the next of `answers`, the last one for ever."""

    answers: Sequence[Sequence[str | InferenceResponse]] = ()

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        self.pieces = self.answers[min(len(self.requests), len(self.answers) - 1)]
        async for piece in super().stream_infer(loaded_model, request):
            yield piece


def factory_of(handler: FakeHandler, **given: Any) -> InferenceFactory:
    return InferenceFactory(LLMInferenceService(LLMModelManager(MODELS, [handler])), **given)


def script(*answers: Sequence[str | InferenceResponse]) -> Script:
    handler = Script()
    handler.answers = answers
    return handler


async def say(
    inference: ConversationInference, message: str = "hi", **ids: str | None
) -> list[str]:
    given: dict[str, Any] = {
        "thread_id": "thread_1",
        "message_id": None,
        "run_id": None,
        "assistant_id": "asst_1",
    }
    stream = inference.process_conversation(user_message=message, **(given | ids))
    return [chunk async for chunk in stream]


async def test_an_answer_in_chunks_and_a_history() -> None:
    handler = script(["Hello", " there"], ["You said hi."])
    inference = factory_of(handler).get_inference(inference_type="local", available_functions=None)
    assert await say(inference, "hi") == ["Hello", " there"]
    assert await say(inference, "what did I say?") == ["You said hi."]
    assert handler.requests[1].messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "what did I say?"},
    ]
    assert await say(inference, "hi", thread_id="thread_2") == ["You said hi."]
    assert len(handler.requests[2].messages or ()) == 1


@pytest.mark.parametrize(("inference_type", "model"), [("local", "small"), ("cloud", "big")])
async def test_the_type_chooses_the_first_text_model_of_its_location(
    inference_type: str, model: str
) -> None:
    handler = FakeHandler()
    await say(factory_of(handler).get_inference(inference_type))
    assert handler.requests[0].model_id == model


@pytest.mark.parametrize("inference_type", ["edge", "", "LOCAL"])
def test_another_type_is_a_value_error_that_names_both(inference_type: str) -> None:
    with pytest.raises(ValueError, match="'local' or 'cloud'"):
        factory_of(FakeHandler()).get_inference(inference_type)


async def test_a_location_without_a_model_is_told_in_the_stream() -> None:
    handler = FakeHandler()
    service = LLMInferenceService(LLMModelManager([fake_model()], [handler]))
    (only,) = await say(InferenceFactory(service).get_inference("cloud"))
    assert only.startswith("STREAM_ERROR: Configuration error: No model is configured with")


async def test_local_and_cloud_of_one_factory_share_their_threads() -> None:
    handler = FakeHandler()
    factory = factory_of(handler)
    await say(factory.get_inference("local"))
    await say(factory.get_inference("cloud"))
    assert len(handler.requests[1].messages or ()) == 3


async def test_without_a_service_it_says_what_to_do() -> None:
    for make in (InferenceFactory.get_inference, InferenceFactory):
        with pytest.raises(ConfigurationError, match=r"InferenceFactory\(service\)"):
            make()


async def test_a_subclass_can_be_called_on_its_class() -> None:
    handler = FakeHandler(pieces=["ok"])
    service = LLMInferenceService(LLMModelManager(MODELS, [handler]))

    class Ours(InferenceFactory):
        def __init__(self) -> None:
            super().__init__(lambda: service)

    assert await say(Ours.get_inference("local", available_functions=None)) == ["ok"]
    assert await say(Ours().get_inference(inference_type="local")) == ["ok"]


def weather(city: str) -> dict[str, object]:
    """Get the weather."""
    return {"city": city, "sunny": True}


async def with_functions(
    handler: FakeHandler, functions: Mapping[str, Callable[..., Any]]
) -> tuple[list[str], MemoryConversations]:
    conversations = MemoryConversations()
    factory = factory_of(handler, conversations=conversations)
    chunks = await say(factory.get_inference("local", functions))
    return chunks, conversations


async def test_functions_are_called_and_their_results_told() -> None:
    handler = script(
        ["Let me see. ", calls(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}))],
        ["It is sunny."],
    )
    chunks, conversations = await with_functions(handler, {"weather": weather})
    assert chunks == ["Let me see. ", "It is sunny."]
    first, second = handler.requests
    assert first.tools is not None
    assert first.tools[0]["function"]["name"] == "weather"
    asked, *told = (second.messages or ())[1:]
    assert asked["content"] == "Let me see. "
    assert [call["function"]["name"] for call in asked["tool_calls"]] == ["weather"] * 2
    assert [message["tool_call_id"] for message in told] == ["call_0", "call_1"]
    assert [message["content"] for message in told] == [
        '{"city":"Rome","sunny":true}',
        '{"city":"Oslo","sunny":true}',
    ]
    assert [message["role"] for message in await conversations.history("thread_1")] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]


async def test_a_call_in_vain_is_told_to_the_model_and_the_conversation_goes_on() -> None:
    handler = script([calls(("nobody", {}), ("weather", {"town": 1}))], ["Sorry."])
    chunks, _ = await with_functions(handler, {"weather": weather})
    assert chunks == ["Sorry."]
    told = [
        each["content"] for each in handler.requests[1].messages or () if "tool_call_id" in each
    ]
    assert told[0].startswith("Error: there is no function nobody")
    assert told[1].startswith("Error: wrong arguments: ")


async def test_a_model_that_only_calls_functions_comes_to_an_end() -> None:
    handler = script([calls(("weather", {"city": "Rome"}))])
    (only,) = (await with_functions(handler, {"weather": weather}))[0]
    assert only.startswith("STREAM_ERROR: Inference error: The model asked for functions 8 times")
    assert len(handler.requests) == MAX_ROUNDS


async def test_a_function_that_cannot_be_described_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match="the signature of odd"):
        factory_of(FakeHandler()).get_inference("local", {"odd": len})


async def test_an_error_is_the_last_chunk_and_no_answer_is_remembered() -> None:
    handler = FakeHandler(pieces=["par"], fault=InferenceError("it broke"))
    inference = factory_of(handler).get_inference()
    assert await say(inference) == ["par", "STREAM_ERROR: Inference error: it broke"]
    handler.fault = None
    assert await say(inference, "again") == ["par"]
    messages = handler.requests[1].messages or ()
    assert [each["content"] for each in messages] == ["again"], "no two questions in a row"


async def test_turns_of_one_thread_come_in_order() -> None:
    handler = FakeHandler(pieces=["a", "b", "c"], pause=0.002)
    inference = factory_of(handler).get_inference()
    await asyncio.gather(*(say(inference, f"message {number}") for number in range(5)))
    assert [len(request.messages or ()) for request in handler.requests] == [1, 3, 5, 7, 9]


async def test_leaving_a_conversation_ends_it_and_lets_the_next_turn_in() -> None:
    handler = FakeHandler(pieces=["x"] * 1000, pause=0.001)
    inference = factory_of(handler).get_inference()
    stream = inference.process_conversation("thread_1", None, None, None, "hi")
    assert await anext(stream) == "x"
    await stream.aclose()
    assert handler.running == 0
    handler.pieces = ["y"]
    async with asyncio.timeout(1):
        assert await say(inference) == ["y"]


async def test_who_leaves_in_the_middle_of_an_answer_has_seen_what_was_said() -> None:
    handler = FakeHandler(pieces=["one ", "two"])
    inference = factory_of(handler).get_inference()
    stream = inference.process_conversation("thread_1", "msg_1", None, None, "first")
    assert await anext(stream) == "one "
    await stream.aclose()
    await say(inference, "first", message_id="msg_1")
    await say(inference, "second")
    told = [(each["role"], each["content"]) for each in handler.requests[-1].messages or ()]
    assert told == [
        ("user", "first"),
        ("assistant", "one "),
        ("user", "first"),
        ("assistant", "one two"),
        ("user", "second"),
    ]


async def test_who_leaves_before_anything_was_said_leaves_no_question_behind() -> None:
    handler = FakeHandler(pause=5)
    inference = factory_of(handler).get_inference()
    waiting = asyncio.create_task(say(inference, "first"))
    async with asyncio.timeout(5):
        while not handler.running:
            await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.wait({waiting})
    handler.pause = 0
    await say(inference, "second")
    assert [each["content"] for each in handler.requests[-1].messages or ()] == ["second"]


async def test_functions_that_were_called_stay_in_the_thread_when_the_answer_fails() -> None:
    handler = script([calls(("weather", {"city": "Rome"}))])
    chunks, conversations = await with_functions(handler, {"weather": weather})
    assert chunks[0].startswith("STREAM_ERROR:")
    roles = [message["role"] for message in await conversations.history("thread_1")]
    assert roles == ["user"] + ["assistant", "tool"] * MAX_ROUNDS


async def test_a_message_that_was_answered_is_not_asked_again() -> None:
    handler = script(["Let me see. ", calls(("weather", {"city": "Rome"}))], ["Sunny."], ["Bye."])
    inference = factory_of(handler).get_inference("local", {"weather": weather})
    assert await say(inference, "hi", message_id="m1") == ["Let me see. ", "Sunny."]
    assert await say(inference, "hi", message_id="m1") == ["Let me see. Sunny."]
    assert len(handler.requests) == 2
    await say(inference, "bye", message_id="m2")
    (refused,) = await say(inference, "hi", message_id="m1")
    assert refused.startswith("STREAM_ERROR: Invalid request: The message with this message_id was")
    assert len(handler.requests) == 3


async def test_a_message_that_is_in_the_thread_already_is_not_written_again() -> None:
    handler = FakeHandler()
    conversations = MemoryConversations()
    await conversations.append("thread_1", [{"role": "user", "content": "hi"}], message_id="msg_1")
    inference = factory_of(handler, conversations=conversations).get_inference()
    await say(inference, "hi", message_id="msg_1")
    assert len(handler.requests[0].messages or ()) == 1


async def test_the_run_is_the_request_in_the_logs() -> None:
    handler = script([calls(("weather", {"city": "Rome"}))], ["ok"])
    inference = factory_of(handler).get_inference("local", {"weather": weather})
    await say(inference, run_id="run_7")
    await say(inference, run_id="no\nid")
    assert [each.request_id for each in handler.requests[:2]] == ["run_7", "run_7.2"]
    assert "\n" not in handler.requests[2].request_id


async def test_params_of_the_factory_reach_the_model() -> None:
    handler = FakeHandler()
    await say(factory_of(handler).get_inference())
    assert handler.requests[0].params.max_new_tokens is None, "as long as the engine lets it be"
    await say(factory_of(handler, params=GenerationParams(max_new_tokens=5)).get_inference())
    assert handler.requests[1].params.max_new_tokens == 5


async def test_a_conversation_that_grew_too_long_loses_its_beginning() -> None:
    class Narrow(FakeHandler):
        async def stream_infer(
            self, loaded_model: LoadedModel, request: InferenceRequest
        ) -> AsyncGenerator[str | InferenceResponse, None]:
            count = len(request.messages or ())
            if count > 4:
                raise ContextLengthError(count * 100, 400)
            async for piece in super().stream_infer(loaded_model, request):
                yield piece

    inference = factory_of(Narrow(pieces=["ok"])).get_inference()
    for number in range(10):
        assert await say(inference, f"message {number}") == ["ok"]
