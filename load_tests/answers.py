"""Understands answers: tokens, usage, the engine's timings, and what is wrong with one. Pure."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from load_tests.scenarios.ask import Expected

DONE = b"[DONE]"

_STAGE = re.compile(r"([\w-]+)\s*;[^,]*?\bdur=([0-9]{1,12}(?:\.[0-9]{1,12})?)")
_MOST_TOKENS = 2**40
_MOST_KIND = 80
"""Letters of a kind: it stands in a line of a terminal."""

NOT_OF_THE_FORMAT = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What reading JSON raises whose shape, numbers or depth are not what they should be."""


class AnswerError(Exception):
    """What is wrong with an answer; its text is a kind of `Sample.error`."""


class Facts:
    """What an answer said of itself. Tokens are 0 and seconds None where it did not say."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.has_usage = False
        self.prompt_seconds: float | None = None
        self.decode_seconds: float | None = None
        self.finish_reason: str | None = None
        self._text: list[str] = []
        self._arguments: list[str] = []

    def note(self, content: Mapping[str, Any]) -> None:
        """Usage and timings, of an event or a whole answer."""
        usage = content.get("usage")
        if usage:
            self.has_usage = True
            self.prompt_tokens = _tokens(usage.get("prompt_tokens"))
            self.completion_tokens = _tokens(usage.get("completion_tokens"))
            details = usage.get("prompt_tokens_details") or {}
            self.cached_tokens = _tokens(details.get("cached_tokens"))
        timings = content.get("timings")
        if timings:
            self.prompt_seconds = _seconds(timings.get("prompt_ms", 0))
            self.decode_seconds = _seconds(timings.get("predicted_ms", 0))

    def add(self, piece: Mapping[str, Any]) -> bool:
        """A delta or a message; whether it had a part of the answer."""
        text = piece.get("content")
        if text:
            self._text.append(_text(text))
        calls = piece.get("tool_calls")
        for call in calls or ():
            self._arguments.append(_text((call.get("function") or {}).get("arguments") or ""))
        return bool(text or calls or piece.get("reasoning_content"))

    def check(self, expected: Expected, *, needs_usage: bool = True) -> None:
        """Raises `AnswerError` when the answer is not of the kind that was asked for.

        One that ended because it reached its longest length may be cut anywhere.
        """
        if needs_usage and not self.has_usage:
            raise AnswerError("no usage")
        if self.finish_reason == "length" or expected in ("text", "vector"):
            return
        if expected == "tool_call" and not self._arguments:
            raise AnswerError("no tool call")
        content = "".join(self._text if expected == "json" else self._arguments)
        try:
            json.loads(content)
        except (ValueError, RecursionError) as exc:
            raise AnswerError("answer is no JSON") from exc


class StreamReading:
    """A stream of events with the times they came at, in seconds of the run's clock."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.first_token: float | None = None
        self.gap_max: float | None = None
        self.pieces = 0
        """Events with a part of the answer."""
        self.is_done = False
        self._last = 0.0

    @property
    def gap_mean(self) -> float | None:
        if self.first_token is None or self.pieces < 2:
            return None
        return (self._last - self.first_token) / (self.pieces - 1)

    def event(self, data: bytes, now: float) -> None:
        """Raises `AnswerError`."""
        if self.is_done:
            raise AnswerError("an event after [DONE]")
        if data == DONE:
            self.is_done = True
            return
        try:
            content = json.loads(data)
            if "error" in content:
                raise AnswerError(f"stream {_code(content)}")
            self.facts.note(content)
            for choice in content["choices"]:
                if choice.get("finish_reason"):
                    self.facts.finish_reason = choice["finish_reason"]
                if self.facts.add(choice.get("delta") or {}):
                    self._piece(now)
        except NOT_OF_THE_FORMAT as exc:
            raise AnswerError("bad event") from exc

    def end(self) -> None:
        """The body is complete. Raises `AnswerError` when the answer is not."""
        if not self.is_done:
            raise AnswerError("truncated")
        if self.first_token is None:
            raise AnswerError("no token")

    def _piece(self, now: float) -> None:
        self.pieces += 1
        if self.first_token is None:
            self.first_token = now
        else:
            gap = now - self._last
            if self.gap_max is None or gap > self.gap_max:
                self.gap_max = gap
        self._last = now


def read_plain(body: bytes, expected: Expected) -> Facts:
    """A whole answer, of a chat or of vectors; `check` it. Raises `AnswerError`."""
    facts = Facts()
    try:
        content = json.loads(body)
        facts.note(content)
        if expected == "vector":
            if not content["data"][0]["embedding"]:
                raise AnswerError("no vector")
            return facts
        choice = content["choices"][0]
        facts.finish_reason = choice.get("finish_reason")
        has_answer = facts.add(choice["message"])
    except NOT_OF_THE_FORMAT as exc:
        raise AnswerError("bad answer") from exc
    if not has_answer:
        raise AnswerError("no token")
    return facts


def error_kind(status: int, body: bytes) -> str:
    """The status and the code of an error of the stack: "503 engine_unavailable"."""
    try:
        return f"{status} {_code(json.loads(body))}"
    except NOT_OF_THE_FORMAT:
        return f"{status} no error of the stack"


def plain(text: str, most: int = _MOST_KIND) -> str:
    """What a gateway sent, harmless for a terminal and for a file."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def _code(content: Mapping[str, Any]) -> str:
    error = content.get("error")
    if isinstance(error, Mapping):
        return plain(str(error.get("code") or error.get("type") or "unknown"))
    return plain(str(content.get("error_code") or "unknown"))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _tokens(value: Any) -> int:
    count = int(value or 0)
    if not 0 <= count <= _MOST_TOKENS:
        raise ValueError("no number of tokens")
    return count


def _seconds(milliseconds: float) -> float | None:
    """None for what no clock can measure."""
    seconds = milliseconds / 1000
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a refusal asks for; None where it does not, or in no number of them."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def stages(headers: Mapping[str, str]) -> dict[str, float]:
    """`Server-Timing` in seconds by stage."""
    found = _STAGE.findall(headers.get("server-timing", ""))
    return {name: round(float(milliseconds) / 1000, 6) for name, milliseconds in found}
