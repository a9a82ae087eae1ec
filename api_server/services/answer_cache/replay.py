"""A kept answer as a stream, and a stream as an answer to keep. Pure.

What is kept is the body of a plain answer; both forms of it are equal when folded.
"""

from collections.abc import Iterator

import msgspec

from api_server.errors import InferenceError
from api_server.inference import sse
from api_server.inference.chunks import decode
from api_server.services.folding import Fold
from api_server.services.requests import Generation, Kind
from api_server.services.usage import Json, UsageTally

PIECE = 64
"""Letters in one event of a stream that is played again."""

_OBJECTS = {Kind.CHAT: "chat.completion.chunk", Kind.TEXT: "text_completion"}
_ON_EACH_CHUNK = ("id", "created", "model", "system_fingerprint", "service_tier")


class Tape:
    """Takes in the events of a stream as its client sees them, up to `max_bytes` of them."""

    def __init__(self, kind: Kind, max_bytes: int) -> None:
        self._fold = Fold(kind)
        self._room = max_bytes
        self._is_whole = True
        self._tally: UsageTally | None = None

    def add(self, block: bytes) -> None:
        """Some whole events. What is too long or no event spoils the tape, and nothing else."""
        self._room -= len(block)
        if self._room < 0:
            self._is_whole = False
        if not self._is_whole:
            return
        try:
            for data in sse.payloads(block):
                chunk = decode(data) if data != sse.DONE else None
                if chunk is not None:
                    chunk.pop("usage", None)
                    self._fold.add(chunk)
        except InferenceError:
            self._is_whole = False

    def end(self, tally: UsageTally) -> None:
        """The stream has ended as it should, and this is what was used."""
        self._tally = tally

    def answer(self) -> bytes | None:
        """The plain answer; None where it cannot be kept."""
        if not self._is_whole or self._tally is None:
            return None
        try:
            answer = self._fold.answer()
        except InferenceError:
            return None
        if any(choice["finish_reason"] is None for choice in answer["choices"]):
            return None
        usage = self._tally.total()
        return msgspec.json.encode(answer if usage is None else {**answer, "usage": usage})


def as_stream(answer: Json, generation: Generation) -> Iterator[bytes]:
    """The events of a stream that says what a plain answer says, with its end."""
    base = {name: answer[name] for name in _ON_EACH_CHUNK if answer.get(name) is not None}
    base["object"] = _OBJECTS[generation.kind]
    more = {
        name: value
        for name, value in answer.items()
        if name not in (*_ON_EACH_CHUNK, "object", "choices", "usage")
    }
    choices = answer["choices"]
    for choice in choices:
        pieces = _chat(choice) if generation.kind is Kind.CHAT else _text(choice)
        for piece in pieces:
            whole = {"index": choice["index"], "logprobs": None, "finish_reason": None} | piece
            yield _event(base | {"choices": [whole]})
        end: Json = {"delta": {}} if generation.kind is Kind.CHAT else {"text": ""}
        end |= {"index": choice["index"], "logprobs": None}
        end["finish_reason"] = choice["finish_reason"]
        yield _event(base | {"choices": [end]} | (more if choice is choices[-1] else {}))
    if generation.wants_usage and answer.get("usage") is not None:
        yield _event(base | {"choices": [], "usage": answer["usage"]})
    yield b"data: " + sse.DONE + b"\n\n"


def _chat(choice: Json) -> Iterator[Json]:
    message = choice["message"]
    content = message.get("content")
    yield {"delta": {"role": "assistant", "content": "" if content else content}}
    for name, value in message.items():  # a model's reasoning, a refusal, what else there is
        if name in ("role", "content", "tool_calls") or value is None:
            continue
        for piece in _cut(value) if isinstance(value, str) else (value,):
            yield {"delta": {name: piece}}
    for text, logprobs in _with_logprobs(content or "", choice.get("logprobs")):
        yield {"delta": {"content": text}, "logprobs": logprobs}
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        head = call | {"index": index, "function": function | {"arguments": ""}}
        yield {"delta": {"tool_calls": [head]}}
        for piece in _cut(function["arguments"]):
            yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}}


def _text(choice: Json) -> Iterator[Json]:
    logprobs = choice.get("logprobs")
    if logprobs:  # lists side by side, whose offsets count from the beginning
        yield {"text": choice["text"], "logprobs": logprobs}
        return
    for piece in _cut(choice["text"]):
        yield {"text": piece}


def _with_logprobs(content: str, logprobs: Json | None) -> Iterator[tuple[str, Json | None]]:
    """A token at a time where tokens make up the text; they do not where letters span several."""
    if not logprobs:
        for piece in _cut(content):
            yield piece, None
        return
    tokens = logprobs.get("content") or []
    if "".join(token["token"] for token in tokens) != content:
        yield content, logprobs
        return
    for token in tokens:
        yield token["token"], logprobs | {"content": [token]}


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def _event(chunk: Json) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
