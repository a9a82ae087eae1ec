"""Puts the events of an engine that says things differently right, chunk by chunk. Pure.

`shape_of` chooses what an engine and a request need; mostly that is nothing.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from api_server.inference.catalogue import Model
from api_server.inference.stop_sequences import StopScanner
from api_server.services.logprobs import LogprobsShape
from api_server.services.requests import Generation, Kind
from api_server.services.usage import Json


class Shape(Protocol):
    """Rewrites the chunks of one stream in place; may take choices out of them."""

    def reshape(self, chunk: Json) -> None:
        """Takes them in their order."""


def shape_of(generation: Generation, model: Model) -> Shape | None:
    """What the events of this answer must go through; None where they are right as they come."""
    engine = model.engine
    logprobs = None
    if generation.top_logprobs is not None and not engine.has_openai_details:
        logprobs = LogprobsShape(generation.kind, generation.top_logprobs)
    if engine.has_clean_answers:
        return logprobs
    return CleanEvents(generation.kind, stop_sequences(generation, model), logprobs)


def stop_sequences(generation: Generation, model: Model) -> list[str]:
    """Those that apply to a request; empty ones never do."""
    raw = generation.fields.get("stop")
    stop: str | list[str] = str(model.defaults.get("stop", ""))
    if raw is not None:
        stop = msgspec.json.decode(raw)
    return [text for text in ([stop] if isinstance(stop, str) else stop) if text]


class CleanEvents:
    """Fills in what events leave out, and ends a choice before its stop sequence.

    Nothing of a choice goes out after its end, no event without content before it.
    """

    def __init__(self, kind: Kind, stop: Sequence[str], logprobs: LogprobsShape | None) -> None:
        self._kind = kind
        self._stop = stop
        self._logprobs = logprobs
        self._cuts: dict[int, StopCut] = {}
        self._ended: set[int] = set()

    def reshape(self, chunk: Json) -> None:
        """Leaves only the choices that have something to say, and no nulls beside them."""
        for name in [name for name, value in chunk.items() if value is None]:
            del chunk[name]
        if chunk.get("choices"):
            chunk["choices"] = [choice for choice in chunk["choices"] if self._clean(choice)]
        if self._logprobs is not None:
            self._logprobs.reshape(chunk)

    def _clean(self, choice: Json) -> bool:
        index = choice.get("index") or 0
        if index in self._ended:
            return False
        place, key = choice, "text"
        if self._kind is Kind.CHAT:
            place, key = choice.setdefault("delta", {}), "content"
        reason = choice.get("finish_reason")
        tokens = (choice.get("logprobs") or {}).get("content") or []
        cut = self._cuts.setdefault(index, StopCut(self._stop))
        text, tokens = cut.feed(place.get(key) or "", tokens, is_last=reason is not None)
        place[key] = text
        choice["logprobs"] = {"content": tokens} if tokens and self._logprobs else None
        choice["finish_reason"] = reason = "stop" if cut.has_stopped else reason
        if reason is not None:
            self._ended.add(index)
        delta = choice.get("delta") or {}
        has_more = any(value for name, value in delta.items() if name not in ("role", "content"))
        return bool(text or tokens or reason or has_more)


class StopCut:
    """Cuts a text before its first stop sequence, and with it the log probabilities of its tokens.

    What may be the beginning of one is held back.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._scanner = StopScanner(stop)
        self._waiting: list[tuple[int, Json]] = []
        self._read = 0
        self._said = 0

    @property
    def has_stopped(self) -> bool:
        return self._scanner.matched is not None

    def feed(self, text: str, tokens: list[Json], *, is_last: bool) -> tuple[str, list[Json]]:
        """What may go out after this piece: text, and the log probabilities of whole tokens.

        The last piece leaves nothing held back.
        """
        words = [token.get("token") or "" for token in tokens]
        are_the_text = "".join(words) == text
        end = self._read
        self._read += len(text)
        for word, token in zip(words, tokens, strict=True):
            end = end + len(word) if are_the_text else self._read
            self._waiting.append((end, token))
        out = self._scanner.feed(text)
        if is_last:
            out += self._scanner.flush()
        self._said += len(out)
        whole = [token for end, token in self._waiting if end <= self._said]
        self._waiting = self._waiting[len(whole) :]
        return out, whole
