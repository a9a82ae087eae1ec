"""Sends one request under gevent and measures its answer. What goes wrong becomes a `Sample` too.

A stream must be whole: each event understood, [DONE] at its end, and the end of the HTTP body.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gevent

from load_tests.answers import (
    NOT_OF_THE_FORMAT,
    AnswerError,
    Facts,
    StreamReading,
    error_kind,
    read_plain,
)
from load_tests.answers import retry_after as retry_after_of
from load_tests.answers import stages as stages_of
from load_tests.connections import Address, Connections
from load_tests.http1 import HttpError, ResponseReader
from load_tests.samples import Sample
from load_tests.scenarios.ask import Ask
from load_tests.sse import EventError, EventReader

BLOCK_BYTES = 64 * 1024
POLL_SECONDS = 0.25
"""Between two looks at a job."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class TimeOuts:
    """Seconds: between two pieces of an answer, and for all of it."""

    idle: float = 60.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer that was not streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransferError(Exception):
    """No whole answer came; its text is a kind of `Sample.error`."""


class _HasLeft(Exception):  # noqa: N818 - no error: the scenario wants it
    """The client leaves in the middle."""


class _Exchange:
    """One request and its response on one connection, which it gives back or closes."""

    def __init__(self, connections: Connections, head: bytes, body: bytes, ends: float) -> None:
        self._connections = connections
        self._request = head + body
        self._ends = ends
        self.response = ResponseReader()

    def run(self, idle: float, take: Callable[[bytes], None]) -> None:
        """Hand each part of the body to `take` as it comes. Raises `TransferError`."""
        response, connection = self.response, None
        try:
            connection = self._connections.take()
            connection.settimeout(idle)
            connection.sendall(self._request)
            self._receive(connection, idle, take)
        except TimeoutError as exc:
            raise TransferError("connect" if connection is None else "timeout") from exc
        except OSError as exc:
            kind = "truncated" if response.status else "reset"
            raise TransferError("connect" if connection is None else kind) from exc
        except HttpError as exc:
            has_ended = "connection ended" in str(exc)
            kind = ("truncated" if response.status else "reset") if has_ended else "bad http"
            raise TransferError(kind) from exc
        finally:
            if connection is not None:
                if response.is_complete and response.keeps_alive:
                    self._connections.give(connection)
                else:
                    connection.close()

    def _receive(self, connection: Any, idle: float, take: Callable[[bytes], None]) -> None:
        while not self.response.is_complete:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise TransferError("timeout")
            if left < idle:
                connection.settimeout(left)
            data = connection.recv(BLOCK_BYTES)
            if not data:
                self.response.end()
            elif block := self.response.feed(data):
                take(block)


class Client:
    """Asks one gateway, with one key or none. `clock` counts seconds of the run."""

    def __init__(
        self,
        url: str,
        key: str | None,
        clock: Clock,
        time_outs: TimeOuts | None = None,
        *,
        needs_usage: bool = True,
    ) -> None:
        """Raises `ValueError` for what is no URL. Without `needs_usage` the events with text of a
        stream are counted as tokens where it says nothing of its usage.
        """
        self._needs_usage = needs_usage
        self._address = Address.of(url)
        self._connections = Connections(self._address)
        self._clock = clock
        self._time_outs = time_outs or TimeOuts()
        key_line = f"authorization: Bearer {key}\r\n" if key else ""
        host = self._address.host if ":" not in self._address.host else f"[{self._address.host}]"
        self._headers = (
            f"host: {host}:{self._address.port}\r\n{key_line}"
            "user-agent: llm-serving-stack-load-tests\r\ncontent-type: application/json\r\n"
        )

    def measure(
        self, ask: Ask, intended: float | None = None, number: int = 0, attempt: int = 1
    ) -> Sample:
        """Send it now; `intended` is when it should have been sent, if not now."""
        sent = self._clock()
        sample = Sample(
            scenario=ask.scenario,
            intended=sent if intended is None else intended,
            sent=sent,
            ended=sent,
            outcome="ok",
            is_warm=ask.is_warm,
            number=number,
            attempt=attempt,
        )
        measured = {"stream": self._stream, "plain": self._plain, "job": self._job}[ask.way]
        return measured(ask, sample)

    def fetch(self, method: str, path: str, body: bytes = b"", attempt: int = 1) -> Response:
        """A whole answer, whatever its status. Raises `TransferError`."""
        parts: list[bytes] = []
        exchange = self._exchange(method, path, body, attempt)
        exchange.run(self._time_outs.idle, parts.append)
        return Response(exchange.response.status, exchange.response.headers, b"".join(parts))

    def close(self) -> None:
        self._connections.close()

    def _exchange(self, method: str, path: str, body: bytes, attempt: int) -> _Exchange:
        """Says as the official clients do whether it was refused before: who was has a place."""
        head = (
            f"{method} {self._address.base}{path} HTTP/1.1\r\n{self._headers}"
            f"x-stainless-retry-count: {attempt - 1}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        ends = time.monotonic() + self._time_outs.total
        return _Exchange(self._connections, head.encode(), body, ends)

    def _stream(self, ask: Ask, sample: Sample) -> Sample:
        reading, events, refusal = StreamReading(), EventReader(), bytearray()
        exchange = self._exchange("POST", ask.path, ask.body, sample.attempt)
        response = exchange.response

        def take(block: bytes) -> None:
            if response.status != 200:
                refusal.extend(block)
                return
            now = self._clock()
            for data in events.feed(block):
                reading.event(data, now)
            is_enough = ask.leave_after is not None and reading.pieces >= ask.leave_after
            if is_enough and not reading.is_done:
                raise _HasLeft

        outcome: dict[str, Any] = {}
        try:
            exchange.run(self._time_outs.idle, take)
            if response.status == 200:
                if not events.is_between:
                    raise AnswerError("truncated")
                reading.end()
                reading.facts.check(ask.expected, needs_usage=self._needs_usage)
        except _HasLeft:
            outcome = {"outcome": "cancelled"}
        except (AnswerError, TransferError, EventError) as exc:
            outcome = {"outcome": "error", "error": str(exc)}
        if not self._needs_usage and not reading.facts.has_usage and reading.pieces:
            reading.facts.completion_tokens = reading.pieces
            sample = replace(sample, tokens_estimated=True)
        return replace(
            sample,
            **_known(response.status, response.headers, reading.facts),
            first_token=reading.first_token,
            gap_mean=reading.gap_mean,
            gap_max=reading.gap_max,
            ended=self._clock(),
            **(outcome or _refused(response.status, response.headers, bytes(refusal))),
        )

    def _plain(self, ask: Ask, sample: Sample) -> Sample:
        try:
            answer = self.fetch("POST", ask.path, ask.body, sample.attempt)
        except TransferError as exc:
            return replace(sample, ended=self._clock(), outcome="error", error=str(exc))
        ended, facts, outcome = self._clock(), Facts(), {}
        try:
            if answer.status == 200:
                facts = read_plain(answer.body, ask.expected)
                # What is no use has cost its tokens all the same.
                facts.check(ask.expected, needs_usage=self._needs_usage)
        except AnswerError as exc:
            outcome = {"outcome": "error", "error": str(exc)}
        return replace(
            sample,
            **_known(answer.status, answer.headers, facts),
            ended=ended,
            **(outcome or _refused(answer.status, answer.headers, answer.body)),
        )

    def _job(self, ask: Ask, sample: Sample) -> Sample:
        """Until its result can be read."""
        ends = time.monotonic() + self._time_outs.total
        try:
            answer = self.fetch("POST", ask.path, ask.body, sample.attempt)
            sample = replace(sample, request_id=answer.headers.get("x-request-id"))
            refused = _refused(answer.status, answer.headers, answer.body)
            if refused:
                return replace(sample, status=answer.status, ended=self._clock(), **refused)
            path = f"/get_request/{json.loads(answer.body)['request_id']}"
            while True:
                gevent.sleep(POLL_SECONDS)
                answer = self.fetch("GET", path)
                state = json.loads(answer.body)
                if answer.status != 200 or state["status"] not in ("queued", "processing"):
                    break
                if time.monotonic() > ends:
                    raise TransferError("timeout")
            sample = replace(sample, status=answer.status, ended=self._clock())
            if answer.status != 200 or state["status"] != "completed":
                kind = error_kind(answer.status, answer.body)
                return replace(sample, outcome="error", error=kind)
            facts = Facts()
            facts.note({"usage": state["response"]["token_usage"]})
            return replace(
                sample,
                prompt_tokens=facts.prompt_tokens,
                completion_tokens=facts.completion_tokens,
            )
        except TransferError as exc:
            return replace(sample, ended=self._clock(), outcome="error", error=str(exc))
        except NOT_OF_THE_FORMAT:
            return replace(sample, ended=self._clock(), outcome="error", error="bad answer")


def _known(status: int, headers: Mapping[str, str], facts: Facts) -> dict[str, Any]:
    """The fields of a sample that an answer tells, as far as it came."""
    return {
        "status": status or None,
        "request_id": headers.get("x-request-id"),
        "stages": stages_of(headers),
        "retry_after": retry_after_of(headers) if status != 200 else None,
        "prompt_tokens": facts.prompt_tokens,
        "completion_tokens": facts.completion_tokens,
        "cached_tokens": facts.cached_tokens,
        "prompt_seconds": facts.prompt_seconds,
        "decode_seconds": facts.decode_seconds,
    }


def _refused(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Outcome and error of an answer with another status than 200; nothing of a good one.

    A 429 or a 503 is a refusal only if it says when to come again: without that it is an error.
    """
    if status == 200:
        return {}
    kind = error_kind(status, body)
    if status in (429, 503):
        if retry_after_of(headers) is not None:
            return {"outcome": "refused", "error": kind}
        kind = f"{kind} without Retry-After"
    return {"outcome": "error", "error": kind}
