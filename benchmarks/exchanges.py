"""The requests that clients send, and what is made of their answers."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.wire import TokenCounter, fault_of_plain, fault_of_status

_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Say the word token eight times, please."},
]


KEY = "sk-key-of-the-benchmark-alone"
"""Of an app of our gateway, and the master key of LiteLLM."""


def _request(path: str, fields: dict[str, object]) -> bytes:
    body = json.dumps({"model": "bench", "messages": _MESSAGES} | fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


CHAT = "/v1/chat/completions"
PLAIN_REQUEST = _request(CHAT, {})


def stream_request(tokens: int) -> bytes:
    """A chat that asks for a stream of so many tokens."""
    options: dict[str, object] = {"stream": True, "stream_options": {"include_usage": True}}
    return _request(CHAT, options | {"max_tokens": tokens})


@dataclass
class Tally:
    """What is counted over all clients of a phase. Times in seconds since a request was sent."""

    answers: int = 0
    tokens: int = 0
    whole_seconds: list[float] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


class Exchange(Protocol):
    """One request and what is made of its answer."""

    request: bytes

    def block(self, tally: Tally, body: bytes, seconds: float) -> None:
        """Some of the body came, `seconds` after the request was sent."""

    def end(self, tally: Tally, status: int, seconds: float) -> str | None:
        """The answer is whole; what is wrong with it, if anything."""


class PlainExchange:
    """A chat answered in one piece."""

    def __init__(self) -> None:
        self.request = PLAIN_REQUEST
        self._body = b""

    def block(self, _tally: Tally, body: bytes, _seconds: float) -> None:
        self._body = self._body + body if self._body else body

    def end(self, tally: Tally, status: int, seconds: float) -> str | None:
        body, self._body = self._body, b""
        tally.whole_seconds.append(seconds)
        return fault_of_plain(status, body)


class StreamExchange:
    """Chats answered as streams, of the lengths that `lengths` gives one after the other."""

    def __init__(self, lengths: Iterator[int]) -> None:
        self._lengths = lengths
        self._requests: dict[int, bytes] = {}
        self._next()

    def _next(self) -> None:
        tokens = next(self._lengths)
        self.request = self._requests.setdefault(tokens, stream_request(tokens))
        self._counter = TokenCounter(tokens)
        self._start = b""

    def block(self, tally: Tally, body: bytes, seconds: float) -> None:
        counter = self._counter
        is_first = not counter.tokens
        found = counter.feed(body)
        tally.tokens += found
        if is_first:
            if found:
                tally.first_token_seconds.append(seconds)
            elif len(self._start) < 1000:
                self._start += body  # may be an error

    def end(self, tally: Tally, status: int, seconds: float) -> str | None:
        tally.whole_seconds.append(seconds)
        fault = self._counter.fault() if status == 200 else fault_of_status(status, self._start)
        self._next()
        return fault


def lengths_around(tokens: int, start: int) -> Iterator[int]:
    """Stream lengths between half and one and a half of `tokens`, with that mean, without end.

    Different ones, so that the ends of streams do not come together; always the same ones.
    """
    steps = (0, 7, 3, 12, 5, 9, 1, 14, 6, 11, 2, 13, 4, 10, 8)
    offset = start % len(steps)
    for step in itertools.cycle(steps[offset:] + steps[:offset]):
        yield max(1, tokens + tokens * (step - 7) // 14)
