"""The handler's contract over the real llama-server, and what only that one shows."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from api_server.errors import ContextLengthError, ResourceNotAvailableError
from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.handlers.openai_compatible import OpenAICompatibleHandler
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams, InferenceRequest
from api_server.inference.service import LLMInferenceService
from tests.engine_probe import EngineProbe
from tests.handler_contract import HandlerContract, Subject
from tests.local_stack import LocalStack

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
TURNS = (
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def probe(stack: LocalStack) -> Iterator[EngineProbe]:
    with EngineProbe(stack) as probe:
        yield probe


@pytest.fixture
def tiny(probe: EngineProbe, stack: LocalStack) -> Model:
    """The engine of the stack itself, past its gateway."""
    return Model(
        id="small",
        name_at_engine="tiny",
        engine=LLAMA_SERVER,
        replicas=(probe.url,),
        api_key=stack.engine_key(),
    )


class OverLlamaServer(HandlerContract):
    """What is common to both routes."""

    question: ClassVar[Mapping[str, Any]]
    impossible: ClassVar[list[Mapping[str, Any]]]

    @pytest.fixture
    async def subject(self, tiny: Model, probe: EngineProbe) -> AsyncIterator[Subject]:
        handler = OpenAICompatibleHandler()
        loaded = LoadedModel(tiny, await handler.load(tiny))

        async def running() -> int:
            return await asyncio.to_thread(probe.busy_slots)

        yield Subject(
            handler=handler,
            loaded=loaded,
            question=self.question,
            answer=ANSWER,
            endless={"prompt": "Hello", "params": {"max_new_tokens": 1900}},
            running=running,
            impossible=self.impossible,
        )
        await handler.unload(loaded)


class TestChatsOverLlamaServer(OverLlamaServer):
    """`/v1/chat/completions`."""

    question: ClassVar = {"messages": [{"role": "user", "content": QUESTION}]}
    impossible: ClassVar = [
        {"messages": [{"role": "user", "content": "word " * 5000}]},
        {"messages": [{"role": "user"}]},
    ]


class TestPromptsOverLlamaServer(OverLlamaServer):
    """`/v1/completions`."""

    question: ClassVar = {"prompt": TURNS.format(QUESTION)}
    impossible: ClassVar = [{"prompt": "word " * 5000}]


@pytest.fixture
async def service(tiny: Model) -> AsyncIterator[LLMInferenceService]:
    async with LLMModelManager([tiny]) as manager:
        yield LLMInferenceService(manager)


GREEDY = GenerationParams(do_sample=False)


def chat(content: str, **fields: Any) -> InferenceRequest:
    messages = [{"role": "user", "content": content}]
    return InferenceRequest(model_id="small", messages=messages, params=GREEDY, **fields)


async def test_counts_of_an_answer_that_was_cut_are_the_engines(
    service: LLMInferenceService, probe: EngineProbe
) -> None:
    whole = await service.infer(chat(QUESTION))
    cut = await service.infer(chat(QUESTION, stop_sequences=[" France"]))
    assert (cut.generated_text, cut.finish_reason) == ("The capital of", "stop_sequence")
    assert cut.prompt_tokens == whole.prompt_tokens
    assert cut.generated_tokens is not None
    assert whole.generated_tokens is not None
    read = len(probe.tokens("The capital of France"))
    assert read <= cut.generated_tokens < whole.generated_tokens


async def test_tools_are_called(service: LLMInferenceService) -> None:
    request = chat("What is the weather in Paris?", tools=[WEATHER])
    response = await service.infer(request)
    (call,) = response.tool_calls
    assert response.finish_reason == "tool_calls"
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert call.id


async def test_a_repetition_penalty_reaches_the_engine(service: LLMInferenceService) -> None:
    async def words(penalty: float) -> list[str]:
        params = GenerationParams(do_sample=False, max_new_tokens=40, repetition_penalty=penalty)
        request = InferenceRequest(model_id="small", prompt="Hello", params=params)
        return [chunk async for chunk in service.stream(request)]

    assert set(await words(1.0)) == {"Hello"}
    assert len(set(await words(2.0))) > 10


async def test_top_k_reaches_the_engine(service: LLMInferenceService) -> None:
    params = GenerationParams(temperature=2.0, top_k=1)
    messages = [{"role": "user", "content": QUESTION}]
    request = InferenceRequest(model_id="small", messages=messages, params=params)
    assert (await service.infer(request)).generated_text == ANSWER  # at any temperature


async def test_a_prompt_that_does_not_fit_is_told_with_both_numbers(
    service: LLMInferenceService,
) -> None:
    with pytest.raises(ContextLengthError) as caught:
        await service.infer(InferenceRequest(model_id="small", prompt="word " * 5000))
    assert caught.value.context_tokens
    assert caught.value.prompt_tokens
    assert caught.value.prompt_tokens > caught.value.context_tokens


async def test_a_conversation_that_does_not_fit_can_lose_its_beginning(
    service: LLMInferenceService,
) -> None:
    turns = [
        {"role": role, "content": "Tell me a story. " * 20}
        for _ in range(20)
        for role in ("user", "assistant")
    ]
    messages = [*turns, {"role": "user", "content": QUESTION}]
    request = InferenceRequest(model_id="small", messages=messages, params=GREEDY)
    with pytest.raises(ContextLengthError):
        await service.infer(request)
    response = await service.infer(request, drops_oldest=True)
    assert response.generated_text
    assert response.prompt_tokens is not None


async def test_an_engine_that_is_not_there() -> None:
    model = Model(
        id="away",
        engine=LLAMA_SERVER,
        replicas=("http://127.0.0.1:9",),
        timeouts=Timeouts(queue_seconds=0.2, connect_seconds=0.2),
    )
    async with LLMModelManager([model]) as manager:
        service = LLMInferenceService(manager)
        with pytest.raises(ResourceNotAvailableError):
            await service.infer(InferenceRequest(model_id="away", prompt="Hello"))
