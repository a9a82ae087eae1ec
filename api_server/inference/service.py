"""The inference service: one way to ask any model, wherever it runs. Needs no web server."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

import msgspec

from api_server.errors import ContextLengthError, EngineTimeoutError, InferenceError, StackError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.shortening import TRIES, keep_newest, share_that_fits
from api_server.inference.stop_sequences import StopScanner, until_stop
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

        A chat that does not fit loses its oldest messages if `drops_oldest`, by default as the
        model's entry says. Raises `ApiError` and `ConfigurationError`.
        """
        with self._tracking(request) as tracked:
            async with self.models.use(request.model_id) as loaded:
                handler = tracked.handled_by(self.models.handler_for(loaded))
                for tries in range(1, TRIES + 2):
                    try:
                        response = await _infer_in_time(handler, loaded, request)
                        break
                    except ContextLengthError as exc:
                        request = _shortened(request, loaded.config, exc, tries, drops_oldest)
            return tracked.finished(_up_to_stop(response, request))

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
            async with self.models.use(request.model_id) as loaded:
                handler = tracked.handled_by(self.models.handler_for(loaded))
                loop = asyncio.get_running_loop()
                deadline = loop.time() + loaded.config.timeouts.total_seconds
                summary: InferenceResponse | None = None
                tries = 0
                while summary is None:
                    tries += 1
                    text = until_stop(handler.stream_infer(loaded, request), request)
                    try:
                        async with aclosing(text):
                            while piece := await _next_in_time(text, deadline, loaded.config):
                                if isinstance(piece, str):
                                    tracked.has_begun()
                                    yield piece
                                else:
                                    summary = piece
                    except ContextLengthError as exc:
                        if tracked.has_text:
                            raise
                        request = _shortened(request, loaded.config, exc, tries, drops_oldest)
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
        tracked = Tracked(request)
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
        except BaseException:  # cancelled, or its generator was closed
            tracked.was_left()
            raise
        finally:
            self._tracked.discard(tracked)
            tracked.tell(self._metrics)


async def _infer_in_time(
    handler: InferenceHandler, loaded: LoadedModel, request: InferenceRequest
) -> InferenceResponse:
    limit = asyncio.timeout(loaded.config.timeouts.total_seconds)
    try:
        async with limit:
            return await handler.infer(loaded, request)
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise _took_too_long(loaded.config) from exc


async def _next_in_time(
    pieces: AsyncGenerator[str | InferenceResponse, None], deadline: float, model: Model
) -> str | InferenceResponse | None:
    """The next piece, None at the end. A time-out around a `yield` would hit whoever reads it."""
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await anext(pieces, None)
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise _took_too_long(model) from exc


def _took_too_long(model: Model) -> EngineTimeoutError:
    return EngineTimeoutError(
        f"The answer took longer than the {model.timeouts.total_seconds:g} s allowed."
    )


def _up_to_stop(response: InferenceResponse, request: InferenceRequest) -> InferenceResponse:
    """The same without a stop sequence, for handlers that have an `infer` of their own."""
    scanner = StopScanner(request.stop_sequences or ())
    text = scanner.feed(response.generated_text or "")
    if scanner.matched is None:
        return response
    return response.model_copy(update={"generated_text": text, "finish_reason": "stop_sequence"})


def _shortened(
    request: InferenceRequest,
    model: Model,
    error: ContextLengthError,
    tries: int,
    drops_oldest: bool | None,
) -> InferenceRequest:
    """The chat without its oldest messages. Raises `error` where none may go."""
    if drops_oldest is None:
        drops_oldest = model.context_overflow == "drop_oldest"
    if request.messages is None or not drops_oldest or tries > TRIES:
        raise error
    messages = [msgspec.Raw(msgspec.json.encode(message)) for message in request.messages]
    kept = keep_newest(messages, share_that_fits(error, request.params.max_new_tokens, tries))
    if len(kept) == len(messages):
        raise error
    return request.model_copy(update={"messages": [msgspec.json.decode(each) for each in kept]})
