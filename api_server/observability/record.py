"""What is known of one request, filled in as it goes along and logged as one line at its end."""

import logging
import secrets
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_SCOPE_KEY = "llm_serving_stack.record"

Phase = Literal["reading", "queued", "connecting", "generating"]


MOST_CONTENT_BYTES = 256 * 1024


class Content:
    """What was said, for an app that wants it kept: the body, and the answer as it was sent.

    Of each the first `MOST_CONTENT_BYTES`; `is_cut` where there was more.
    """

    __slots__ = ("answer", "is_cut", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request[:MOST_CONTENT_BYTES]
        self.answer = bytearray()
        self.is_cut = len(request) > MOST_CONTENT_BYTES

    def add(self, block: bytes) -> None:
        """A part of the answer."""
        room = MOST_CONTENT_BYTES - len(self.answer)
        self.answer += block[:room]
        self.is_cut = self.is_cut or len(block) > room


@dataclass(slots=True)
class RequestRecord:
    """One request. Durations in milliseconds, None where the request never got that far.

    `route` is the template of the path, "other" where there is none. `phase` is where the request
    is, or where it ended. `upload_ms` is how long the client kept us waiting for its body.
    `engine_ms` is how long the engine took until its first event, or its whole answer where that
    comes in one piece (then there is no `first_token_ms`); `own_ms` is what the gateway itself took
    until then. `replica` is where the answer came from; `fallback_for` is the model that was asked
    for when another one answers. `app_id` and `app` name the app that asks, `user` the end user it
    speaks for, as far as its token says. `cached_tokens` are those of the prompt that the engine
    had computed before; `cache` is what our own cache of answers had: hit, miss or bypass.
    `ledger_id` is the request's row in the ledger, where it has one. With `tokens_estimated` the
    tokens are our guess, for the engine did not get to say: its client left, or it broke off.
    `content` is there only for apps whose policy has it kept.
    `headers` go out with whatever answer there will be.
    """

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    route: str = "other"
    status: int = 0
    outcome: str = "ok"
    phase: Phase = "reading"
    phase_began: float = 0.0
    upload_ms: float = 0.0
    model: str | None = None
    stream: bool | None = None
    queue_ms: float | None = None
    engine_ms: float | None = None
    own_ms: float | None = None
    first_token_ms: float | None = None
    retries: int = 0
    replica: str | None = None
    fallback_for: str | None = None
    dropped_messages: int = 0
    app_id: str | None = None
    app: str | None = None
    user: str | None = None
    cache: str | None = None
    ledger_id: str | None = None
    content: Content | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    cached_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    log_level: int = logging.INFO

    def elapsed_ms(self) -> float:
        return round((time.perf_counter() - self.started) * 1000, 2)

    def begin(self, phase: Phase) -> None:
        """Enter a phase and note how long the one before took, where that is of interest."""
        now = time.perf_counter()
        took_ms = round((now - self.phase_began) * 1000, 3)
        if self.phase == "queued":
            self.queue_ms = round(took_ms + (self.queue_ms or 0.0), 3)
        elif self.phase == "connecting":
            self.engine_ms = round(took_ms + (self.engine_ms or 0.0), 3)
            total_ms = (now - self.started) * 1000
            others_ms = self.engine_ms + (self.queue_ms or 0.0) + self.upload_ms
            self.own_ms = round(max(0.0, total_ms - others_ms), 3)
        self.phase = phase
        self.phase_began = now

    def fail(self, outcome: str, code: str, message: str, log_level: int) -> None:
        """Note the error that ended the request; a client's text in it is kept short."""
        self.outcome = outcome
        self.error_code = code
        self.error_message = message[:500]
        self.log_level = log_level

    def server_timing(self) -> bytes:
        """The `Server-Timing` header as of now: where the milliseconds went."""
        total = (time.perf_counter() - self.started) * 1000
        queue, engine = self.queue_ms or 0.0, self.engine_ms or 0.0
        if self.phase == "queued":
            queue += (time.perf_counter() - self.phase_began) * 1000
        elif self.phase == "connecting":
            engine += (time.perf_counter() - self.phase_began) * 1000
        elif self.phase == "generating":  # what came since its first event is the engine's time too
            engine = total - queue - self.upload_ms - (self.own_ms or 0.0)
        own = max(0.0, total - queue - engine - self.upload_ms)
        if self.model is None:
            return b"gateway;dur=%.2f" % own
        return b"queue;dur=%.2f, engine;dur=%.2f, gateway;dur=%.2f" % (queue, engine, own)

    def as_fields(self) -> dict[str, object]:
        """The fields of the log line; what is not known is left out."""
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "outcome": self.outcome,
        }
        if self.model is not None:
            fields["model"] = self.model
            fields["phase"] = self.phase
        for name in _LOGGED_IF_KNOWN:
            value = getattr(self, name)
            if value:
                fields[name] = value
        fields["duration_ms"] = self.elapsed_ms()
        return fields


_LOGGED_IF_KNOWN = (
    "stream",
    "upload_ms",
    "queue_ms",
    "engine_ms",
    "own_ms",
    "first_token_ms",
    "replica",
    "fallback_for",
    "retries",
    "dropped_messages",
    "app",
    "cache",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tokens_estimated",
    "finish_reason",
    "error_code",
    "error_message",
)


def new_request_id() -> str:
    """An id that nobody else has."""
    return f"req_{secrets.token_hex(16)}"


def attach_record(scope: MutableMapping[str, Any], record: RequestRecord) -> None:
    """Bind a record to an ASGI scope."""
    scope[_SCOPE_KEY] = record


def record_of(scope: Mapping[str, Any]) -> RequestRecord:
    """The record of the request that an ASGI scope belongs to."""
    record: RequestRecord = scope[_SCOPE_KEY]
    return record
