"""The inference service: one way to ask any model, wherever it runs. Needs no web server."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace

from api_server.errors import ApiError, ConfigurationError, InferenceError, StackError
from api_server.inference import cancelling
from api_server.inference.answering import in_pieces, lets_others_try, whole
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.tracking import InFlight, StreamError, Tracked, describe
from api_server.observability.metrics import Metrics

log = logging.getLogger(__name__)


class LLMInferenceService:
    """Answers requests with the models of a manager.

    `handlers` are registered in their order, before the built-in ones; the first that can handle a
    loaded model serves it. Each request is one line in the log, never with its text, and is counted
    in `metrics` where such are given.
    """

    def __init__(
        self,
        llm_model_manager: LLMModelManager,
        handlers: Sequence[InferenceHandler] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.models = llm_model_manager
        self._metrics = metrics
        self._tracked: set[Tracked] = set()
        for handler in handlers or ():
            self.register_handler(handler)

    def register_handler(self, handler: InferenceHandler) -> None:
        """Ask this handler too: after those registered before it, before the built-in ones."""
        self.models.register_handler(handler)

    @property
    def in_flight(self) -> list[InFlight]:
        """The requests that run now, oldest first."""
        return sorted((each.in_flight() for each in self._tracked), key=lambda each: -each.seconds)

    async def process_inference(
        self, request: InferenceRequest
    ) -> InferenceResponse | AsyncGenerator[str, None]:
        """A response, or the chunks of its text where the request says `stream`.

        Never raises an error of ours: it is the response's `error_message`, or a last chunk that
        begins with `STREAM_ERROR:`. `infer` and `stream` raise instead.
        """
        if request.stream:
            return self._telling_errors(request)
        try:
            return await self.infer(request)
        except StackError as exc:
            return InferenceResponse(
                request_id=request.request_id,
                model_id=request.model_id,
                error_message=describe(exc),
                finish_reason="error",
            )

    async def infer(
        self, request: InferenceRequest, *, drops_oldest: bool | None = None
    ) -> InferenceResponse:
        """The whole answer. Cancelling it ends the generation.

        Where a model cannot answer, its `fallbacks` are asked; the response says who answered. A
        chat that does not fit loses its oldest messages if `drops_oldest`, by default as the
        model's entry says. Raises `ApiError` and `ConfigurationError`.
        """
        with self._tracking(request) as tracked:
            candidates = _Candidates(self.models, tracked)
            while True:
                try:
                    async with candidates.next() as (handler, loaded, asked):
                        response = await whole(
                            handler, loaded, asked, drops_oldest=_drops(loaded, drops_oldest)
                        )
                        return tracked.finished(response)
                except (ApiError, ConfigurationError) as exc:
                    candidates.failed(exc)

    async def stream(
        self, request: InferenceRequest, *, drops_oldest: bool | None = None
    ) -> AsyncGenerator[str, None]:
        """The answer's text in chunks. Closing the generator ends the generation.

        Raises as `infer` does, also in the middle.
        """
        async with aclosing(self.pieces(request, drops_oldest=drops_oldest)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece

    async def pieces(
        self, request: InferenceRequest, *, drops_oldest: bool | None = None
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        """As `stream`, and last a response that sums up: why it ended, tool calls, counts, time.

        That one has no `generated_text`.
        """
        with self._tracking(request) as tracked:
            candidates = _Candidates(self.models, tracked)
            summary: InferenceResponse | None = None
            while summary is None:
                try:
                    async with candidates.next() as (handler, loaded, asked):
                        drops = _drops(loaded, drops_oldest)
                        answer = in_pieces(handler, loaded, asked, drops_oldest=drops)
                        async with aclosing(answer):
                            async for piece in answer:
                                if isinstance(piece, str):
                                    tracked.has_begun()
                                    yield piece
                                else:
                                    summary = piece
                except (ApiError, ConfigurationError) as exc:
                    candidates.failed(exc)
            yield tracked.finished(summary)

    async def _telling_errors(self, request: InferenceRequest) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(self.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except StackError as exc:
            yield StreamError.of(exc)

    @contextmanager
    def _tracking(self, request: InferenceRequest) -> Iterator[Tracked]:
        """What is known of a request while it runs; whatever its end is, it is told once."""
        tracked = Tracked(request, self._metrics)
        self._tracked.add(tracked)
        try:
            yield tracked
        except StackError as exc:
            tracked.failed(exc)
            raise
        except Exception as exc:  # the edge of the library: a defect of a handler
            log.exception("a handler failed", extra={"request_id": request.request_id})
            error = InferenceError(f"{tracked.handler} failed ({type(exc).__name__}: {exc}).")
            tracked.failed(error)
            raise error from exc
        except asyncio.CancelledError as exc:
            if cancelling.is_wanted():
                tracked.was_left()
                raise
            error = InferenceError(f"{tracked.handler} cancelled the request itself.")
            tracked.failed(error)
            raise error from exc
        except BaseException:  # its generator was closed
            tracked.was_left()
            raise
        finally:
            self._tracked.discard(tracked)
            tracked.tell()


class _Candidates:
    """The models that may answer one request, in order: the one asked, then its fallbacks."""

    def __init__(self, models: LLMModelManager, tracked: Tracked) -> None:
        self._models = models
        self._tracked = tracked
        asked = models.catalogue.find(tracked.request.model_id)
        # One that does not exist was told of in the log when the manager was made.
        known = (name for name in asked.fallbacks if name in models.catalogue)
        self._left = [asked.id, *known]
        self._first_error: ApiError | None = None

    @asynccontextmanager
    async def next(
        self,
    ) -> AsyncIterator[tuple[InferenceHandler, LoadedModel, InferenceRequest]]:
        """Use the next one: its handler, the model, and the request as it is put to it."""
        model_id = self._left.pop(0)
        self._tracked.asks(model_id, self._first_error)
        async with self._models.use(model_id) as loaded:
            handler = self._tracked.handled_by(self._models.handler_for(loaded))
            request = self._tracked.request.model_copy(update={"model_id": model_id})
            yield handler, _in_a_hurry(loaded) if self._left else loaded, request

    def failed(self, error: ApiError | ConfigurationError) -> None:
        """One could not answer. Raises where that is the end: the first error, if all failed."""
        is_fallback = self._first_error is not None
        if self._tracked.has_text or not lets_others_try(error, is_fallback=is_fallback):
            raise error
        if isinstance(error, ApiError):  # which the first is, or it would have been the end
            self._first_error = self._first_error or error
        if not self._left:
            self._tracked.asks(self._tracked.request.model_id, None)
            raise self._first_error or error


def _in_a_hurry(loaded: LoadedModel) -> LoadedModel:
    """The same, not to wait for its engines while they are away: another model can answer."""
    timeouts = replace(loaded.config.timeouts, queue_seconds=0.0)
    return LoadedModel(replace(loaded.config, timeouts=timeouts), loaded.model_object)


def _drops(loaded: LoadedModel, drops_oldest: bool | None) -> bool:
    if drops_oldest is not None:
        return drops_oldest
    return loaded.config.context_overflow == "drop_oldest"
