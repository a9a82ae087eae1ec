"""What an engine's error answers mean for a client. Pure; the engine's own text stays out."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineBusyError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    NoAnswerError,
    ResourceNotAvailableError,
)
from api_server.inference.complaints import complaint_of_max
from api_server.inference.handlers.http1 import EngineConnectionError

RETRY_AFTER_SECONDS = 2
"""What a client is told while an engine is down: about what a restart of a small one takes."""

LONGEST_REST_SECONDS = 60.0
"""The longest that an engine is left in peace when it asks for that; also OpenAI's clients ignore
a longer Retry-After.
"""

_SECONDS = re.compile(r"\d{1,12}(\.\d{1,12})?")
_UNREADABLE = re.compile(r"Failed to parse (messages|tools)\b")
_CONTEXT = re.compile(r"(?:maximum context length is|context holds) (\d+) tokens")
_PROMPT = re.compile(r"(?:resulted in|requested|input has|prompt contains) (?:at least )?(\d+)")
"""How OpenAI, vLLM and another gateway of ours tell both numbers."""

_BAD_ARGUMENTS = "Failed to parse tool call arguments"
_INPUT_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large .*batch size: (\d+)\)")
_UNSUPPORTED_INPUT = re.compile(r"\b(image|audio|video) input is not supported")


_NO_KEY = "The model's engine does not accept the gateway's key; its operator has to mend that."
_NOT_THERE = (
    "The model's engine does not know this model or this kind of request; its operator has to mend "
    "that."
)
_FAILURES = {401: _NO_KEY, 403: _NO_KEY, 404: _NOT_THERE, 405: _NOT_THERE}


class _EngineErrorBody(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _EngineError(msgspec.Struct):
    error: _EngineErrorBody


def translate_error(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """What an engine's error means for a client. Pure; the engine's own text stays out."""
    try:
        error = msgspec.json.decode(body, type=_EngineError).error
    except msgspec.DecodeError:
        error = _EngineErrorBody()
    if (fault := _fault_of_the_client(error)) is not None:
        return fault
    if status in (400, 422):
        return InvalidRequestError(
            "The model's engine refused a value in this request. Check the messages or the "
            "prompt, then parameters such as n, response_format, tools or grammar; the "
            "gateway's log has the engine's reason under this request's x-request-id."
        )
    if status in (429, 503):
        seconds = seconds_of(retry_after, datetime.now(UTC)) if retry_after else None
        return EngineBusyError(
            "The model is loading or its engine is busy. Try again shortly.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
            engine_asks_seconds=seconds,
        )
    if status in (408, 504):
        return EngineTimeoutError("The model's engine gave up: its own time for answers was over.")
    return InferenceError(
        _FAILURES.get(status, "The model's engine failed to answer this request.")
    )


def seconds_of(retry_after: str, now: datetime) -> float | None:
    """What a Retry-After asks for, a number or a date; None where it is neither. Pure.

    No more than `LONGEST_REST_SECONDS`: an engine is not lost for a number that it sent once.
    """
    if _SECONDS.fullmatch(retry_after):
        return min(float(retry_after), LONGEST_REST_SECONDS)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_REST_SECONDS)


def _too_long(error: _EngineErrorBody) -> ContextLengthError | None:
    if error.type == "exceed_context_size_error":
        return ContextLengthError(error.n_prompt_tokens, error.n_ctx)
    if error.code == "context_length_exceeded" or _CONTEXT.search(error.message):
        return ContextLengthError(_found(_PROMPT, error.message), _found(_CONTEXT, error.message))
    if numbers := _INPUT_TOO_LONG.search(error.message):  # how embeddings say it
        return ContextLengthError(int(numbers[1]), int(numbers[2]))
    return None


def _fault_of_the_client(error: _EngineErrorBody) -> InvalidRequestError | None:
    """What llama-server says with many a status, 500 among them, and MAX with 400."""
    if too_long := _too_long(error):
        return too_long
    if unsupported := _UNSUPPORTED_INPUT.search(error.message):
        return InvalidRequestError(
            f"This model takes no {unsupported[1]} input; send text only.", param="messages"
        )
    if error.message.startswith(_BAD_ARGUMENTS):
        return InvalidRequestError(
            "messages: the arguments of a tool call in an earlier answer are not JSON.",
            param="messages",
        )
    if unreadable := _UNREADABLE.match(error.message):
        name = unreadable[1]
        return InvalidRequestError(
            f"The model's engine could not read {name}; check their shape.", param=name
        )
    return complaint_of_max(error.message)


def connection_failure(exc: EngineConnectionError) -> ApiError:
    if exc.sent:
        return NoAnswerError("The model's engine closed the connection before it answered.")
    return ResourceNotAvailableError(
        "The model's engine cannot be reached; it may be starting. Try again shortly.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _found(number: re.Pattern[str], text: str) -> int | None:
    match = number.search(text)
    return int(match[1]) if match else None
