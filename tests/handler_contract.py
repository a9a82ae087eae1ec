"""What every handler does, whatever is behind it: inherit from `HandlerContract`, say how to ask.

The subclass gives a fixture `subject`. All questions are asked greedily, so that answers repeat.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from api_server.errors import ApiError, ConfigurationError
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams, InferenceRequest, InferenceResponse
from api_server.inference.service import LLMInferenceService


@dataclass
class Subject:
    """A handler with one loaded model, and what may be asked of it.

    `question` are fields of a request whose answer is `answer`, of several tokens; `endless` are
    those of one that goes on for much longer than `ends_within_seconds`, the time in which a
    generation comes to rest once nobody wants it; `impossible` are those of some that end in an
    `ApiError`. `running` tells how many generations are going on behind the handler.
    """

    handler: InferenceHandler
    loaded: LoadedModel
    question: Mapping[str, Any]
    answer: str
    endless: Mapping[str, Any]
    running: Callable[[], Awaitable[int]]
    impossible: Sequence[Mapping[str, Any]] = ()
    has_beams: bool = False
    ends_within_seconds: float = 0.4

    def request(self, fields: Mapping[str, Any] | None = None, **more: Any) -> InferenceRequest:
        """A request for `question`, or for what is given."""
        params = {"do_sample": False, "max_new_tokens": 64} | more.pop("params", {})
        given = dict(self.question if fields is None else fields) | more
        params |= given.pop("params", {})
        return InferenceRequest(
            model_id=self.loaded.model_id, params=GenerationParams(**params), **given
        )

    async def comes_to_rest(self) -> None:
        """Wait until nothing is generated any more; soon, or it was not ended but ran out."""
        async with asyncio.timeout(self.ends_within_seconds):
            while await self.running():
                await asyncio.sleep(0.01)

    async def is_running(self) -> None:
        """Wait until something is generated."""
        async with asyncio.timeout(10):
            while not await self.running():
                await asyncio.sleep(0.01)

    async def pieces(self, request: InferenceRequest) -> list[str | InferenceResponse]:
        """All that a stream gives."""
        async with aclosing(self.handler.stream_infer(self.loaded, request)) as stream:
            return [piece async for piece in stream]


def texts_of(pieces: Sequence[str | InferenceResponse]) -> list[str]:
    """The texts among the pieces."""
    return [piece for piece in pieces if isinstance(piece, str)]


class HandlerContract(ABC):
    """The tests. A subclass's name begins with `Test`."""

    @abstractmethod
    def subject(self, *args: Any) -> Any:
        """A fixture that gives a `Subject`."""

    def test_it_knows_its_models_from_others(self, subject: Subject) -> None:
        assert subject.handler.can_handle(subject.loaded)
        stranger = LoadedModel(subject.loaded.config, object())
        assert not subject.handler.can_handle(stranger)

    async def test_a_stream_is_pieces_and_then_a_summary(self, subject: Subject) -> None:
        *pieces, last = await subject.pieces(subject.request(request_id="mine"))
        texts = texts_of(pieces)
        assert len(texts) == len(pieces) > 1
        assert all(texts)
        assert "".join(texts) == subject.answer
        assert isinstance(last, InferenceResponse)
        assert (last.request_id, last.model_id) == ("mine", subject.loaded.model_id)
        assert (last.finish_reason, last.generated_text) == ("stop", None)
        assert last.prompt_tokens is not None
        assert last.generated_tokens is not None
        assert last.prompt_tokens > 0
        assert last.generated_tokens > 1

    async def test_a_plain_answer_is_the_same_text(self, subject: Subject) -> None:
        response = await subject.handler.infer(subject.loaded, subject.request())
        assert (response.generated_text, response.finish_reason) == (subject.answer, "stop")
        assert response.prompt_tokens is not None

    async def test_no_more_tokens_than_are_wanted(self, subject: Subject) -> None:
        request = subject.request(params={"max_new_tokens": 2})
        response = await subject.handler.infer(subject.loaded, request)
        assert (response.finish_reason, response.generated_tokens) == ("length", 2)
        assert subject.answer.startswith(response.generated_text or "?")

    async def test_a_stop_sequence_across_pieces_ends_it(self, subject: Subject) -> None:
        pieces = texts_of(await subject.pieces(subject.request()))
        sequence = pieces[1][-1] + pieces[2][0]
        expected = subject.answer[: subject.answer.find(sequence)]
        request = subject.request(stop_sequences=["not in there", sequence])
        service = self._service(subject)
        response = await service.infer(request)
        assert (response.generated_text, response.finish_reason) == (expected, "stop_sequence")
        assert "".join([chunk async for chunk in service.stream(request)]) == expected
        *_, summary = [piece async for piece in service.pieces(request)]
        assert isinstance(summary, InferenceResponse)
        assert summary.finish_reason == "stop_sequence"
        await subject.comes_to_rest()

    async def test_a_stop_sequence_ends_the_generation_itself(self, subject: Subject) -> None:
        request = subject.request(subject.endless)
        async with aclosing(subject.handler.stream_infer(subject.loaded, request)) as stream:
            first = await anext(stream)
        assert isinstance(first, str)
        await subject.comes_to_rest()
        stopping = request.model_copy(update={"stop_sequences": [first.strip() or first]})
        response = await self._service(subject).infer(stopping)
        assert response.finish_reason == "stop_sequence"
        await subject.comes_to_rest()

    async def test_an_unmet_stop_sequence_takes_nothing_away(self, subject: Subject) -> None:
        beginning = subject.answer[-3:] + "@"
        response = await self._service(subject).infer(subject.request(stop_sequences=[beginning]))
        assert (response.generated_text, response.finish_reason) == (subject.answer, "stop")

    async def test_closing_the_stream_ends_the_generation(self, subject: Subject) -> None:
        request = subject.request(subject.endless)
        async with aclosing(subject.handler.stream_infer(subject.loaded, request)) as stream:
            assert isinstance(await anext(stream), str)
            assert await subject.running() == 1
        await subject.comes_to_rest()

    async def test_cancelling_ends_the_generation(self, subject: Subject) -> None:
        request = subject.request(subject.endless)
        task = asyncio.create_task(subject.handler.infer(subject.loaded, request))
        await subject.is_running()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await subject.comes_to_rest()

    async def test_several_at_the_same_time(self, subject: Subject) -> None:
        async with asyncio.timeout(60):
            responses = await asyncio.gather(
                *(subject.handler.infer(subject.loaded, subject.request()) for _ in range(3))
            )
        assert [response.generated_text for response in responses] == [subject.answer] * 3

    async def test_beams_work_or_are_refused(self, subject: Subject) -> None:
        request = subject.request(params={"num_beams": 2, "max_new_tokens": 8})
        if subject.has_beams:
            response = await subject.handler.infer(subject.loaded, request)
            assert response.generated_text
        else:
            with pytest.raises(ConfigurationError, match="num_beams is 2"):
                await subject.handler.infer(subject.loaded, request)
            with pytest.raises(ConfigurationError, match="num_beams is 2"):
                await subject.pieces(request)

    async def test_what_cannot_be_is_an_error_of_ours(self, subject: Subject) -> None:
        for fields in subject.impossible:
            with pytest.raises(ApiError):
                await subject.handler.infer(subject.loaded, subject.request(fields))
            with pytest.raises(ApiError):
                await subject.pieces(subject.request(fields))
        response = await subject.handler.infer(subject.loaded, subject.request())
        assert response.generated_text == subject.answer, "it goes on working"

    def _service(self, subject: Subject) -> LLMInferenceService:
        """A service whose one model is already loaded."""
        return LLMInferenceService(LLMModelManager([subject.loaded.config], [_Loaded(subject)]))


class _Loaded(InferenceHandler):
    """The subject's handler, for a manager that would otherwise load its model once more."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return loaded_model.config is self._subject.loaded.config

    async def load(self, model: Any) -> Any:
        assert model is self._subject.loaded.config
        return self._subject.loaded.model_object

    def stream_infer(self, loaded_model: LoadedModel, request: InferenceRequest) -> Any:
        return self._subject.handler.stream_infer(loaded_model, request)

    async def infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> InferenceResponse:
        return await self._subject.handler.infer(loaded_model, request)
