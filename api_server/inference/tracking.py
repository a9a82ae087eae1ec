"""What is known of one request of the library while it runs, and how its end is told."""

import logging
from dataclasses import dataclass
from typing import Self

from api_server.errors import (
    ApiError,
    ConfigurationError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    ModelNotFoundError,
    NoSuitableHandlerError,
    OverloadedError,
    ResourceNotAvailableError,
    ShuttingDownError,
    StackError,
)
from api_server.inference.handlers.base import InferenceHandler
from api_server.inference.schemas import InferenceRequest, InferenceResponse
from api_server.observability.metrics import Metrics
from api_server.observability.record import RequestRecord

STREAM_ERROR = "STREAM_ERROR:"

# The first that fits, so the particular come before the general.
_SPOKEN: tuple[tuple[type[StackError], str], ...] = (
    (ModelNotFoundError, "Model not found"),
    (NoSuitableHandlerError, "No suitable handler"),
    (InferenceError, "Inference error"),
    (ResourceNotAvailableError, "Resource not available"),
    (OverloadedError, "Resource not available"),
    (ConfigurationError, "Configuration error"),
    (InvalidRequestError, "Invalid request"),
    (EngineTimeoutError, "Time-out"),
    (ShuttingDownError, "Shutting down"),
)

log = logging.getLogger("api_server.inference")


def describe(error: StackError) -> str:
    """An error in a sentence that begins with its kind."""
    kind = next((word for type_, word in _SPOKEN if isinstance(error, type_)), "Error")
    return f"{kind}: {error}"


class StreamError(str):
    """The last chunk of a stream that failed; a model that writes these words gives a plain str."""

    __slots__ = ("error",)
    error: StackError

    @classmethod
    def of(cls, error: StackError) -> Self:
        chunk = cls(f"{STREAM_ERROR} {describe(error)}")
        chunk.error = error
        return chunk


@dataclass(frozen=True)
class InFlight:
    """A request that runs; `seconds` is for how long."""

    request_id: str
    model_id: str
    handler: str | None
    seconds: float


class Tracked:
    """One request from its arrival to its end."""

    def __init__(self, request: InferenceRequest, metrics: Metrics | None) -> None:
        self.request = request
        self._metrics = metrics
        route = "/v1/completions" if request.messages is None else "/v1/chat/completions"
        self._record = RequestRecord(request.request_id, "LIBRARY", route, route=route)
        self._record.model = request.model_id
        self._record.phase = "connecting"
        self.handler: str | None = None
        self.has_text = False

    def asks(self, model_id: str, failed: ApiError | None) -> None:
        """This model is to answer; a fallback, where `failed` is why the one asked did not."""
        asked = self.request.model_id
        self._record.model = model_id
        self._record.fallback_for = None if failed is None else asked
        if failed is not None and self._metrics is not None:
            self._metrics.fell_back(asked, model_id, failed.code)

    def handled_by(self, handler: InferenceHandler) -> InferenceHandler:
        self.handler = type(handler).__name__
        return handler

    def has_begun(self) -> None:
        """The first text is there."""
        if not self.has_text:
            self.has_text = True
            self._record.stream = True
            self._record.phase = "generating"
            self._record.first_token_ms = self._record.elapsed_ms()

    def finished(self, response: InferenceResponse) -> InferenceResponse:
        """Note the end; returns the response with the time it took."""
        self._record.finish_reason = response.finish_reason
        self._record.prompt_tokens = response.prompt_tokens
        self._record.completion_tokens = response.generated_tokens
        return response.model_copy(update={"inference_time_ms": self._record.elapsed_ms()})

    def failed(self, error: StackError) -> None:
        if isinstance(error, ApiError):
            self._record.fail("error", error.code, error.message, error.log_level)
        else:
            self._record.fail("error", "configuration_error", str(error), logging.WARNING)
        self._record.finish_reason = "error"

    def was_left(self) -> None:
        """Nobody waits for the rest."""
        if self._record.finish_reason is None:
            self._record.outcome = "client_left"

    def in_flight(self) -> InFlight:
        record = self._record
        seconds = record.elapsed_ms() / 1000
        return InFlight(record.request_id, record.model or "", self.handler, seconds)

    def tell(self) -> None:
        """One line of log, and the numbers."""
        record = self._record
        if self._metrics is not None:
            self._metrics.request_ended(record)
        if log.isEnabledFor(record.log_level):
            fields = {
                "request_id": record.request_id,
                "model": record.model,
                "fallback_for": record.fallback_for,
                "handler": self.handler,
                "outcome": record.outcome,
                "finish_reason": record.finish_reason,
                "prompt_tokens": record.prompt_tokens,
                "generated_tokens": record.completion_tokens,
                "first_token_ms": record.first_token_ms,
                "duration_ms": record.elapsed_ms(),
                "error_code": record.error_code,
                "error_message": record.error_message,
            }
            known = {name: value for name, value in fields.items() if value is not None}
            log.log(record.log_level, "inference", extra=known)
