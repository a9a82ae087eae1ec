"""One answer of a loaded model: in time, up to a stop sequence, shortened where it is too long."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api_server.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    QueueTimeoutError,
    ResourceNotAvailableError,
    StackError,
)
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.shortening import TRIES, keep_newest, share_that_fits
from api_server.inference.stop_sequences import StopScanner, no_answer, until_stop


async def whole(
    handler: InferenceHandler, loaded: LoadedModel, request: InferenceRequest, *, drops_oldest: bool
) -> InferenceResponse:
    """The answer in one piece, within the model's total time."""
    limit = asyncio.timeout(loaded.config.timeouts.total_seconds)
    tries = 0
    try:
        async with limit:
            while True:
                tries += 1
                try:
                    response = await handler.infer(loaded, request)
                    break
                except ContextLengthError as exc:
                    request = shortened(request, exc, tries, drops_oldest=drops_oldest)
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise _took_too_long(loaded.config) from exc
    if not isinstance(response, InferenceResponse):  # the edge to handlers that are not ours
        raise InferenceError(no_answer(response))
    return _up_to_stop(response, request)


async def in_pieces(
    handler: InferenceHandler, loaded: LoadedModel, request: InferenceRequest, *, drops_oldest: bool
) -> AsyncGenerator[str | InferenceResponse, None]:
    """The answer's text in pieces, none empty, and last a summary; within the model's total time.

    Closing it ends the generation.
    """
    deadline = asyncio.get_running_loop().time() + loaded.config.timeouts.total_seconds
    has_text = False
    tries = 0
    while True:
        tries += 1
        pieces = until_stop(handler.stream_infer(loaded, request), request)
        try:
            async with aclosing(pieces):
                while piece := await _next_in_time(pieces, deadline, loaded.config):
                    has_text = True
                    yield piece
            return
        except ContextLengthError as exc:
            if has_text:
                raise
            request = shortened(request, exc, tries, drops_oldest=drops_oldest)


def lets_others_try(error: StackError, *, is_fallback: bool) -> bool:
    """Whether another model may answer what this one could not, before its first text. Pure.

    That too much is going on is no reason: it would only move on. What a fallback cannot do (the
    caller asked another model for it) is no reason to end.
    """
    if isinstance(error, InvalidRequestError | ConfigurationError):
        return is_fallback
    may = isinstance(error, ResourceNotAvailableError | InferenceError | EngineTimeoutError)
    return may and not isinstance(error, QueueTimeoutError)


def shortened(
    request: InferenceRequest, error: ContextLengthError, tries: int, *, drops_oldest: bool
) -> InferenceRequest:
    """The chat without its oldest messages. Raises `error` where none may go. Pure."""
    if request.messages is None or not drops_oldest or tries > TRIES:
        raise error
    messages = [msgspec.Raw(msgspec.json.encode(message)) for message in request.messages]
    kept = keep_newest(messages, share_that_fits(error, request.params.max_new_tokens, tries))
    if len(kept) == len(messages):
        raise error
    return request.model_copy(update={"messages": [msgspec.json.decode(each) for each in kept]})


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
