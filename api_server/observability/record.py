"""What is known of one request, filled in as it goes along and logged as one line at its end."""

import logging
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

_SCOPE_KEY = "llm_serving_stack.record"
_NOT_LOGGED = frozenset({"started", "log_level"})


@dataclass(slots=True)
class RequestRecord:
    """One request. Durations in milliseconds, None where the request never got that far.

    `route` is the template of the path, "other" where there is none. `phase` is how far the request
    got: parse, queued, connecting, generating, done. `engine_ms` is how long the engine took to its
    first token; both it and `first_token_ms` stay None where an engine answers all at once.
    """

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    route: str = "other"
    phase: str = "parse"
    status: int = 0
    outcome: str = "ok"
    model: str | None = None
    stream: bool | None = None
    queue_ms: float | None = None
    engine_ms: float | None = None
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    log_level: int = logging.INFO

    def elapsed_ms(self) -> float:
        return round((time.perf_counter() - self.started) * 1000, 2)

    def mark_first_token(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()

    def fail(self, outcome: str, code: str, message: str, log_level: int) -> None:
        """Note the error that ended the request; a client's text in it is kept short."""
        self.outcome = outcome
        self.error_code = code
        self.error_message = message[:500]
        self.log_level = log_level

    def as_fields(self) -> dict[str, object]:
        """The fields of the log line; what is not known is left out."""
        fields: dict[str, object] = {
            name: value
            for name in self.__dataclass_fields__
            if name not in _NOT_LOGGED and (value := getattr(self, name)) is not None
        }
        return fields | {"duration_ms": self.elapsed_ms()}


def attach_record(scope: MutableMapping[str, Any], record: RequestRecord) -> None:
    """Bind a record to an ASGI scope."""
    scope[_SCOPE_KEY] = record


def record_of(scope: Mapping[str, Any]) -> RequestRecord:
    """The record of the request that an ASGI scope belongs to."""
    record: RequestRecord = scope[_SCOPE_KEY]
    return record
