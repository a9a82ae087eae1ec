"""Every error the stack raises on purpose, in one tree. Imports no framework.

    StackError
    ├── ClientLeftError                 nobody waits for the answer any more; never sent to anyone
    ├── ObjectMissingError              the object store has no object, or no bucket, of that name
    ├── ObjectKeptError                 the object store is well, and does not remove this object
    ├── RowsRefusedError                a database will not take these rows, however often they come
    ├── UnreadableFileError             the text of a file cannot be had; one sentence says why
    ├── SetupError                      the operator must change something; one sentence says what
    │   ├── ConfigurationError          a key or a value in a file or in the environment is wrong
    │   └── StoreAwayError              a store does not answer, and may be starting
    └── ApiError                        a request cannot be answered; has a status and a code
        ├── InvalidRequestError         400  invalid_request_error
        │   └── StorageFullError        400  storage_full
        │   └── ContextLengthError      400  context_length_exceeded
        │   └── RequestTypeError        400  unsupported_request_type
        ├── InvalidKeyError             401  invalid_api_key
        │   └── UnknownSignerError      401  invalid_api_key
        ├── AppCodeError                401  invalid_app_code
        ├── AdminClosedError            403  admin_closed
        ├── NotAllowedError             403  not_allowed
        ├── AppNotFoundError            404  app_not_found
        ├── ModelNotFoundError          404  model_not_found
        ├── JobNotFoundError            404  request_not_found
        ├── NotFoundError               404  not_found
        ├── RouteNotFoundError          404  route_not_found
        ├── MethodNotAllowedError       405  method_not_allowed
        ├── BodyTimeoutError            408  request_timeout
        ├── AppExistsError              409  app_exists
        ├── JobStateError               409  invalid_request
        ├── ModelBusyError              409  model_busy
        ├── BodyTooLargeError           413  request_too_large
        ├── RangeNotSatisfiableError    416  range_not_satisfiable
        ├── OverloadedError             429  overloaded
        ├── RateLimitedError            429  rate_limit_exceeded
        │   └── TurnOverError           429  rate_limit_exceeded
        ├── HeadTooLargeError           431  request_headers_too_large
        ├── InternalError               500  internal_error
        ├── ModelMisconfiguredError     500  model_misconfigured
        ├── InferenceError              502  engine_error
        │   ├── TruncatedAnswerError    502  engine_truncated
        │   ├── NoAnswerError           502  engine_error
        │   └── NoSuitableHandlerError  502  no_suitable_handler
        ├── ResourceNotAvailableError   503  engine_unavailable
        │   ├── EngineBusyError         503  engine_unavailable
        │   └── QueueTimeoutError       503  queue_timeout
        ├── QueueFullError              503  queue_full
        ├── DependencyDownError         503  dependency_down
        │   └── NotSetUpError           503  dependency_down
        ├── ShuttingDownError           503  shutting_down
        └── EngineTimeoutError          504  engine_timeout

`ApiError.envelope()` renders OpenAI's error envelope, `envelope_for` that of the jobs API on its
paths.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal


class StackError(Exception):
    """The root of every error that this project raises on purpose."""


class ClientLeftError(StackError):
    """The client closed its connection before the answer was complete."""


class ObjectMissingError(StackError):
    """The object store has no such object, or no such bucket."""


class ObjectKeptError(StackError):
    """The object store is well, and refuses to remove this object."""


class RowsRefusedError(StackError):
    """A database cannot take rows as they are; to send them again would not help."""


class UnreadableFileError(StackError):
    """The text of a file cannot be had; `code` is one of OpenAI's for files in vector stores."""

    def __init__(
        self, code: Literal["server_error", "unsupported_file", "invalid_file"], message: str
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SetupError(StackError):
    """The stack cannot start or build; the message says what to do about it."""


class ConfigurationError(SetupError):
    """A configuration key or value is wrong; the message names it, its source and the remedy."""


class StoreAwayError(SetupError):
    """A store does not answer: it is not there, or it is still starting."""


class ApiError(StackError):
    """A request that cannot be answered: HTTP status, OpenAI error type and code, a sentence."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    log_level: ClassVar[int] = logging.INFO

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        self.headers = dict(headers or {})
        if retry_after_seconds is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after_seconds)))
            self.headers["retry-after-ms"] = str(max(1, math.ceil(retry_after_seconds * 1000)))

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error envelope, `{"error": {message, type, param, code}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class InvalidRequestError(ApiError):
    """The request is malformed or asks for what cannot be; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context; the message has both numbers."""

    code = "context_length_exceeded"

    def __init__(
        self, prompt_tokens: int | None, context_tokens: int | None, *, is_estimate: bool = False
    ) -> None:
        by_estimate = ", by estimate" if is_estimate else ""
        super().__init__(
            f"This model's context holds {_number(context_tokens)} tokens, and your input has "
            f"{_number(prompt_tokens)}{by_estimate}. Shorten it."
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


def _number(count: int | None) -> str:
    return "an unknown number of" if count is None else str(count)


class StorageFullError(InvalidRequestError):
    """What the app keeps is as much as it may be; the message has the numbers."""

    code = "storage_full"


class RequestTypeError(InvalidRequestError):
    """The app has no such type of request; the message lists those it has."""

    code = "unsupported_request_type"


class InvalidKeyError(ApiError):
    """No key, or not the right one."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": "Bearer"})


class UnknownSignerError(InvalidKeyError):
    """A token is signed with a key that we do not have; fetching the keys again may show it."""


class AppCodeError(ApiError):
    """No app code, or none of an app."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_app_code"


class AdminClosedError(ApiError):
    """The operator has set no key for /admin; the message says how."""

    status = 403
    type = "invalid_request_error"
    code = "admin_closed"


class NotAllowedError(ApiError):
    """The key is right, and its app may not do this; the message says what it may."""

    status = 403
    type = "invalid_request_error"
    code = "not_allowed"


class AppNotFoundError(ApiError):
    """No app, or no credential of an app, of that name."""

    status = 404
    type = "invalid_request_error"
    code = "app_not_found"


class ModelNotFoundError(ApiError):
    """No model of that name; the message lists those there are."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class JobNotFoundError(ApiError):
    """No such job, or not one of whoever asks."""

    status = 404
    type = "invalid_request_error"
    code = "request_not_found"


class NotFoundError(ApiError):
    """No such assistant, thread, message, run, file or vector store, or not one of whoever asks."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"

    @classmethod
    def of(cls, what: str, id_: str, param: str | None = None) -> "NotFoundError":
        """`what` is its kind: assistant, thread, ...; `param` the field that names it."""
        return cls(f"No {what} found with id {id_[:100]!r}.", param=param)


class RouteNotFoundError(ApiError):
    """No such route."""

    status = 404
    type = "invalid_request_error"
    code = "route_not_found"


class MethodNotAllowedError(ApiError):
    """The route exists, but not for this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTimeoutError(ApiError):
    """The client began a body and did not finish it in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class AppExistsError(ApiError):
    """The name of a new app is taken."""

    status = 409
    type = "invalid_request_error"
    code = "app_exists"


class JobStateError(ApiError):
    """The job is in a state in which this cannot be done."""

    status = 409
    type = "invalid_request_error"
    code = "invalid_request"


class ModelBusyError(ApiError):
    """A model cannot be unloaded, for requests still use it."""

    status = 409
    type = "invalid_request_error"
    code = "model_busy"


class BodyTooLargeError(ApiError):
    """The body is larger than the configured limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class RangeNotSatisfiableError(ApiError):
    """A file does not have the bytes that are asked for."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"


class OverloadedError(ApiError):
    """More requests than may wait; the client is told when there will be room."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class RateLimitedError(ApiError):
    """The app has used up one of its limits; the message says which, Retry-After until when."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class TurnOverError(RateLimitedError):
    """Work of an app that had its turn: another's comes first, and this goes on soon after."""


class HeadTooLargeError(ApiError):
    """The request's headers go beyond all bounds."""

    status = 431
    type = "invalid_request_error"
    code = "request_headers_too_large"


class InternalError(ApiError):
    """A defect of ours. The client gets a request id, the log gets the traceback."""

    log_level = logging.ERROR


class ModelMisconfiguredError(ApiError):
    """A model cannot be loaded as its entry stands; its operator is told what to change."""

    code = "model_misconfigured"
    log_level = logging.WARNING


class InferenceError(ApiError):
    """The engine answered with an error or with something that is no answer."""

    status = 502
    code = "engine_error"
    log_level = logging.WARNING


class TruncatedAnswerError(InferenceError):
    """The engine's stream ended before the answer was complete."""

    code = "engine_truncated"


class NoAnswerError(InferenceError):
    """The engine's connection broke before the first byte of an answer."""


class NoSuitableHandlerError(InferenceError):
    """No registered handler can serve the loaded model."""

    code = "no_suitable_handler"


class ResourceNotAvailableError(ApiError):
    """No engine can take the request now, or a model does not fit into memory; try again later.

    `engine_asks_seconds` is the Retry-After of the engine itself, None where it gave none.
    """

    status = 503
    code = "engine_unavailable"
    log_level = logging.WARNING

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        engine_asks_seconds: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_seconds=engine_asks_seconds or retry_after_seconds)
        self.engine_asks_seconds = engine_asks_seconds


class EngineBusyError(ResourceNotAvailableError):
    """The engine itself refused for now: it is loading, or has more than it can do."""


class QueueTimeoutError(ResourceNotAvailableError):
    """The request waited for an engine as long as it may, and none was free."""

    code = "queue_timeout"
    log_level = logging.INFO


class QueueFullError(ApiError):
    """As many jobs wait as may; the client is told when some will be done."""

    status = 503
    code = "queue_full"


class DependencyDownError(ApiError):
    """A backing service that this request cannot do without is away, hangs or is too slow."""

    status = 503
    code = "dependency_down"
    log_level = logging.WARNING

    def __init__(self, dependency: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(
            f"This needs {dependency}, which does not answer now. Try again later.",
            retry_after_seconds=retry_after_seconds,
        )
        self.dependency = dependency


class NotSetUpError(DependencyDownError):
    """A service that this request cannot do without was never set up; the message says how."""

    def __init__(self, dependency: str, message: str) -> None:
        super().__init__(dependency, retry_after_seconds=60)
        self.message = message
        self.args = (message,)


class ShuttingDownError(ApiError):
    """The server is going down and ends what still runs."""

    status = 503
    code = "shutting_down"


class EngineTimeoutError(ApiError):
    """One of the time-outs of a request passed; the message says which."""

    status = 504
    code = "engine_timeout"
    log_level = logging.WARNING


CONVERSATION_PATHS = ("/api/messages",)
JOB_PATHS = ("/ai_request", "/get_request", "/requests", "/ws/requests")

_JOB_CODES = {
    400: "INVALID_REQUEST",
    401: "INVALID_APP_CODE",
    403: "INVALID_APP_CODE",
    404: "REQUEST_NOT_FOUND",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}
_OWN_JOB_CODES = {
    "unsupported_request_type": "UNSUPPORTED_REQUEST_TYPE",
    "queue_full": "QUEUE_FULL",
}


def is_job_path(path: str) -> bool:
    """Whether a path belongs to the jobs API. Pure."""
    return _is_below(path, JOB_PATHS)


def is_conversation_path(path: str) -> bool:
    """Whether a path is the conversation endpoint's. Pure."""
    return _is_below(path, CONVERSATION_PATHS)


def _is_below(path: str, families: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{each}/") for each in families)


def envelope_for(path: str, error: ApiError) -> Mapping[str, object]:
    """An error as the family of a path has it. Pure.

    `{"status": "error", "error_code", "message"}` in the jobs API, `{"error": "..."}` in the
    conversation endpoint, else OpenAI's.
    """
    if is_conversation_path(path):
        return {"error": error.message}
    if not is_job_path(path):
        return error.envelope()
    by_status = _JOB_CODES.get(
        error.status, "INVALID_REQUEST" if error.status < 500 else "INTERNAL_ERROR"
    )
    code = _OWN_JOB_CODES.get(error.code, by_status)
    return {"status": "error", "error_code": code, "message": error.message}
