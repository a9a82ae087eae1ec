"""Hears a model's answer for a run, piece by piece, as it comes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from api_server.inference import sse
from api_server.inference.chunks import decode, merge_tool_call
from api_server.schemas.apps import Caller
from api_server.services.client import CacheWish, Headers

Json = dict[str, Any]


@dataclass(slots=True)
class Piece:
    """What one block of events brought: text, and pieces of calls with their `index`."""

    text: str = ""
    calls: list[Json] = field(default_factory=list)


class Answer:
    """What a model has said so far. Pure."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[Json] = []
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, chunk: Json, piece: Piece) -> None:
        """Take in a chunk; what is new of it goes into `piece` as well."""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = (delta.get("content") or "").replace("\0", "")
            if text:
                self.texts.append(text)
                piece.text += text
            for call in delta.get("tool_calls") or ():
                self._add_call(call, piece)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_call(self, told: Json, piece: Piece) -> None:
        index = told.get("index")
        if index is None:
            index = len(self.calls)
        before = len(self.calls)
        function = told.get("function") or {}
        name = (function.get("name") or "").replace("\0", "")
        arguments = (function.get("arguments") or "").replace("\0", "")
        cleaned = {"index": index, "function": {"name": name, "arguments": arguments}}
        merge_tool_call(self.calls, cleaned)
        piece.calls.append(
            {"index": index, "is_new": index >= before, "name": name, "arguments": arguments}
        )


class Hearing:
    """The `Client` of a run: tells of each piece. It never leaves, nobody sent it away.

    `error` is what the stream ended with, where it broke off: its code and message.
    """

    is_retry: bool | None = None
    cache_wish: CacheWish | None = None
    has_begun = False
    has_left = False

    def __init__(
        self, caller: Caller, answer: Answer, told: Callable[[Piece], Awaitable[None]]
    ) -> None:
        self.caller = caller
        self.answer_so_far = answer
        self.error: tuple[str, str] | None = None
        self._told = told

    async def answer(self, body: bytes, headers: Headers = ()) -> None:  # noqa: ARG002
        raise TypeError("a run asks for a stream")

    async def begin_stream(self, headers: Headers = ()) -> None:  # noqa: ARG002
        self.has_begun = True

    async def events(self, block: bytes) -> None:
        piece = Piece()
        for data in sse.payloads(block):
            if data == sse.DONE:
                continue
            chunk = decode(data)
            if chunk is None:
                continue
            error = chunk.get("error")
            if error and not chunk.get("choices"):
                self.error = (str(error.get("code") or ""), str(error.get("message") or ""))
                continue
            self.answer_so_far.add(chunk, piece)
        if piece.text or piece.calls:
            await self._told(piece)

    async def end_stream(self) -> None:
        """Its end is the end of the request."""

    def cut_off(self) -> None:
        """There is no connection."""
