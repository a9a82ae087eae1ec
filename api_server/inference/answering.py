"""One answer of a loaded model: in time, up to a stop sequence, shortened where it is too long."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

import msgspec

from api_server.errors import (
    ApiError,
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
from api_server.inference.estimating import Count, Fields, estimate, may_exceed
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.inference.shortening import keep_newest, share_that_fits
from api_server.inference.stop_sequences import StopScanner, no_answer, until_stop

T = TypeVar("T")


async def whole(
    handler: InferenceHandler, loaded: LoadedModel, request: InferenceRequest, *, drops_oldest: bool
) -> InferenceResponse:
    """The answer in one piece, within the model's total time."""
    limit = asyncio.timeout(loaded.config.timeouts.total_seconds)
    tries = 0
    try:
        async with limit:
            request = await _within_limit(handler, loaded, request, drops_oldest=drops_oldest)
            while True:
                tries += 1
                try:
                    response = await handler.infer(loaded, request)
                    break
                except ContextLengthError as exc:
                    share = share_that_fits(exc, request.params.max_new_tokens, tries)
                    request = shortened(request, exc, share, drops_oldest=drops_oldest)
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
    shortening = _within_limit(handler, loaded, request, drops_oldest=drops_oldest)
    request = await _in_time(shortening, deadline, loaded.config)
    while True:
        tries += 1
        pieces = until_stop(handler.stream_infer(loaded, request), request)
        try:
            async with aclosing(pieces):
                while piece := await _in_time(anext(pieces, None), deadline, loaded.config):
                    has_text = True
                    yield piece
            return
        except ContextLengthError as exc:
            if has_text:
                raise
            share = share_that_fits(exc, request.params.max_new_tokens, tries)
            request = shortened(request, exc, share, drops_oldest=drops_oldest)


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
    request: InferenceRequest, error: ContextLengthError, share: float, *, drops_oldest: bool
) -> InferenceRequest:
    """The chat without its oldest messages, about `share` (0 to 1) of it.

    Raises `error` where none may go. Pure.
    """
    if request.messages is None or not drops_oldest:
        raise error
    messages = [msgspec.Raw(msgspec.json.encode(message)) for message in request.messages]
    kept = keep_newest(messages, share)
    if len(kept) == len(messages):
        raise error
    return request.model_copy(update={"messages": [msgspec.json.decode(each) for each in kept]})


async def _within_limit(
    handler: InferenceHandler, loaded: LoadedModel, request: InferenceRequest, *, drops_oldest: bool
) -> InferenceRequest:
    """The request, shortened until it is within the model's `max_input_tokens`.

    The model counts where it can, else the count is an estimate. Raises `ContextLengthError` for
    what may not be shortened, or not enough.
    """
    limit = loaded.config.max_input_tokens
    tries = 0
    while limit is not None and may_exceed(fields := _fields(request), limit):
        try:
            tokens = await handler.count_tokens(loaded, request)
        except ApiError:  # who asks it for the answer next is told why
            tokens = None
        count = estimate(fields) if tokens is None else Count(tokens, is_estimate=False)
        if count.tokens <= limit:
            break
        tries += 1
        error = count.beyond(limit, is_chat=request.messages is not None)
        share = count.share_within(limit, tries)
        request = shortened(request, error, share, drops_oldest=drops_oldest)
    return request


def _fields(request: InferenceRequest) -> Fields:
    """What the model reads of a request, as JSON."""
    given = {"messages": request.messages, "tools": request.tools, "prompt": request.prompt}
    try:
        return {
            name: msgspec.Raw(msgspec.json.encode(value))
            for name, value in given.items()
            if value is not None
        }
    except (TypeError, msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidRequestError(
            f"The messages or tools of this request cannot be written as JSON: {exc}.",
            param="messages",
        ) from exc


async def _in_time(awaitable: Awaitable[T], deadline: float, model: Model) -> T:
    """What comes of it. A time-out around a `yield` would hit whoever reads an answer."""
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await awaitable
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
