"""The factory of the Entities guide: conversations with a local or a cloud model, one interface."""

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol, cast, get_args

from api_server.errors import ConfigurationError, InferenceError, InvalidRequestError, StackError
from api_server.inference.catalogue import Model
from api_server.inference.conversations.functions import FunctionTools
from api_server.inference.conversations.store import Conversations, MemoryConversations, Message
from api_server.inference.schemas import (
    GenerationParams,
    InferenceRequest,
    InferenceResponse,
)
from api_server.inference.service import LLMInferenceService
from api_server.inference.tracking import StreamError

MAX_ROUNDS = 8
"""How often a model may ask for functions before it has to answer."""

Location = Literal["local", "cloud"]
Functions = Mapping[str, Callable[..., Any]]
ServiceSource = Callable[[], LLMInferenceService]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,100}")


class ConversationInference:
    """Answers messages of threads with the first text model of one location."""

    def __init__(
        self,
        location: Location,
        service: ServiceSource,
        conversations: Conversations,
        functions: Functions,
        params: GenerationParams,
    ) -> None:
        self.location = location
        self._service = service
        self._conversations = conversations
        self._functions = FunctionTools(functions)
        self._params = params

    async def process_conversation(
        self,
        thread_id: str,
        message_id: str | None,
        run_id: str | None,
        assistant_id: str | None,
        user_message: str,
    ) -> AsyncGenerator[str, None]:
        """Answer a message, write both to its thread; an async generator of the answer's text.

        Turns of one thread come one after the other. A message whose `message_id` is in the thread
        already is not written again; if it is answered, that answer is given again. `run_id` is the
        request's id in the logs; `assistant_id` is for stores that know assistants. Functions that
        the model asks for are called in between.

        An error is a last chunk that begins with `STREAM_ERROR:`. Then neither message nor answer
        is written, so that it can be sent again; functions that were called stay in the thread,
        with the message that led to them. A reader who leaves has seen what was said: that is
        written, for the next message may be about it.
        """
        del assistant_id  # nobody here knows assistants yet
        try:
            async with self._conversations.turn(thread_id):
                history = list(await self._conversations.history(thread_id))
                new: list[Message] = [{"role": "user", "content": user_message}]
                if message_id is not None and await self._conversations.has(thread_id, message_id):
                    if _is_answered(history):
                        yield _answer_to(user_message, history)
                        return
                    new, message_id = [], None
                turn = self._turn(thread_id, history, new, message_id, run_id)
                async with aclosing(turn) as chunks:
                    async for chunk in chunks:
                        yield chunk
        except StackError as exc:
            yield StreamError.of(exc)

    async def _turn(
        self,
        thread_id: str,
        history: list[Message],
        new: list[Message],
        message_id: str | None,
        run_id: str | None,
    ) -> AsyncGenerator[str, None]:
        """`new` is what is not written yet: always with the answer, or with calls' results."""
        service = self._service()
        model = _first_model(service, self.location)
        for number in range(1, MAX_ROUNDS + 1):
            request = InferenceRequest(
                model_id=model.id,
                messages=[*history, *new],
                tools=self._functions.tools or None,
                params=self._params,
                request_id=_request_id(run_id, number),
            )
            text: list[str] = []
            summary: InferenceResponse | None = None
            try:
                async with aclosing(service.pieces(request, drops_oldest=True)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, str):
                            text.append(piece)
                            yield piece
                        else:
                            summary = piece
            except (GeneratorExit, asyncio.CancelledError):
                if text:  # without its id: who sends the message again wants a whole answer
                    said: Message = {"role": "assistant", "content": "".join(text)}
                    await self._conversations.append(thread_id, [*new, said])
                raise
            calls = summary.tool_calls if summary is not None else []
            answer: dict[str, Any] = {"role": "assistant", "content": "".join(text)}
            if not calls:
                new.append(answer)
                await self._conversations.append(thread_id, new, message_id=message_id)
                return
            answer["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
            results = await asyncio.gather(*(self._functions.call(call) for call in calls))
            told = [
                {"role": "tool", "tool_call_id": call.id, "content": result}
                for call, result in zip(calls, results, strict=True)
            ]
            new += [answer, *told]
            await self._conversations.append(thread_id, new)
            history += new
            new = []
        raise InferenceError(f"The model asked for functions {MAX_ROUNDS} times without answering.")


class GetInference(Protocol):
    """`get_inference`, bound."""

    def __call__(
        self, inference_type: str = "local", available_functions: Functions | None = None
    ) -> ConversationInference:
        """An inference of that type; `available_functions` are what its model may call, by name.

        Raises `ValueError` for another type than local and cloud, `ConfigurationError` for a
        function that cannot be described.
        """


class _OnClassAndInstance:
    """`get_inference` of an instance, and of the class: then of a new instance without arguments.

    The guide calls it both ways.
    """

    def __get__(
        self, factory: "InferenceFactory | None", owner: "type[InferenceFactory]"
    ) -> GetInference:
        if factory is not None:
            return factory.make

        def make(
            inference_type: str = "local", available_functions: Functions | None = None
        ) -> ConversationInference:
            return owner().make(inference_type, available_functions)

        return make


class InferenceFactory:
    """Makes inferences that share one service and one set of conversations.

    `service` may be a function that gives it when a conversation needs it. This class makes none of
    its own, since only settings know the models: `api_server.library.InferenceFactory` does.
    """

    get_inference = _OnClassAndInstance()

    def __init__(
        self,
        service: LLMInferenceService | ServiceSource | None = None,
        conversations: Conversations | None = None,
        params: GenerationParams | None = None,
    ) -> None:
        if service is None:
            raise ConfigurationError(
                "InferenceFactory needs a service: write InferenceFactory(service), or take the "
                "one of api_server.library, which makes a service from configs/stack.yaml."
            )
        given = service
        self._service = (lambda: given) if isinstance(given, LLMInferenceService) else given
        self._conversations = conversations or MemoryConversations()
        self._params = params or GenerationParams(max_new_tokens=None)

    def make(
        self, inference_type: str = "local", available_functions: Functions | None = None
    ) -> ConversationInference:
        """What `get_inference` does."""
        return ConversationInference(
            location_of(inference_type),
            self._service,
            self._conversations,
            available_functions or {},
            self._params,
        )


def location_of(inference_type: str) -> Location:
    """Raises `ValueError` for another type than local and cloud."""
    known = get_args(Location)
    if inference_type not in known:
        raise ValueError(
            f"inference_type is {inference_type!r}; it must be {' or '.join(map(repr, known))}"
        )
    return cast("Location", inference_type)


def _is_answered(history: Sequence[Message]) -> bool:
    return bool(history) and history[-1].get("role") == "assistant"


def _answer_to(user_message: str, history: Sequence[Message]) -> str:
    """What was answered to the thread's last message. Raises where that was another one."""
    last = max((n for n, each in enumerate(history) if each.get("role") == "user"), default=-1)
    if last < 0 or history[last].get("content") != user_message:
        raise InvalidRequestError(
            "The message with this message_id was answered already, and others came after it; give "
            "a new message an id of its own.",
            param="message_id",
        )
    answers = [each for each in history[last:] if each.get("role") == "assistant"]
    return "".join(each.get("content") or "" for each in answers)


def _first_model(service: LLMInferenceService, location: Location) -> Model:
    for model in service.models.catalogue:
        if model.location == location and model.serves == "text":
            return model
    raise ConfigurationError(
        f"No model is configured with `location: {location}`; add one to the stack file."
    )


def _request_id(run_id: str | None, number: int) -> str:
    """The run's id, with a number from its second request on."""
    if run_id is None or not _REQUEST_ID.fullmatch(run_id):
        return str(uuid.uuid4())
    return run_id if number == 1 else f"{run_id}.{number}"
