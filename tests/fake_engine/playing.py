"""Answers one request for a generation or for vectors as its play says."""

import asyncio
import json
from typing import Any

from . import answers, wire
from .orders import Play

FOREVER_SECONDS = 3600
EVENTS_BEFORE_A_BREAK = 2
REQUESTS_AWAY = 2

_CLOSES = frozenset({"close_in_stream", "reset_in_stream", "close_after_done", "says_close"})


class Exchange:
    """One request and its answer.

    `number` is which of the engine's requests it is. After `run`, `is_complete` tells whether the
    client got a whole answer; `predicted_tokens` counts while it runs.
    """

    def __init__(
        self, path: str, body: dict[str, Any], play: Play, number: int, writer: asyncio.StreamWriter
    ) -> None:
        self._path = path
        self._body = body
        self._model: str = body.get("model", answers.MODEL)
        self._play = play
        self._number = number
        self._writer = writer
        self.is_complete = False
        self.predicted_tokens = 0

    async def run(self) -> bool:
        """Answer; whether the connection may serve another request."""
        fault = self._play.fault
        if fault == "hang_before_headers":
            await asyncio.sleep(FOREVER_SECONDS)
        if self._says_nothing(fault):
            return False
        if fault == "away_for_a_while":
            fault = "loading_503" if self._number <= REQUESTS_AWAY else ""
        if instead := answers.INSTEAD.get(fault):
            wire.answer(self._writer, *instead, self._retry_after(fault))
            await self._writer.drain()
            return True
        if self._path == answers.EMBEDDINGS:
            return await self._whole(fault, answers.vectors(self._body))
        if self._path == answers.COUNT:
            return await self._whole(fault, {"input_tokens": answers.PROMPT_TOKENS})
        if self._body.get("stream") is not True:
            await asyncio.sleep(self._play.first_pause + self._play.tokens * self._play.pause)
            self.predicted_tokens = self._play.tokens
            whole = answers.whole(self._path, self._model, self._play)
            return await self._whole(fault, whole)
        return await self._stream(fault)

    def _says_nothing(self, fault: str) -> bool:
        """Play the faults that end a connection without an answer."""
        if fault == "not_http":
            self._writer.write(b"220 mail.example ESMTP ready\r\n")
        elif fault == "reset":
            wire.reset(self._writer)
        return fault in ("not_http", "reset", "close_before_headers") or (
            fault == "drops_the_first" and self._number == 1
        )

    def _retry_after(self, fault: str) -> str:
        seconds = self._play.retry_after
        if seconds is None:
            seconds = answers.RETRY_AFTER.get(fault)
        return "" if seconds is None else f"retry-after: {seconds}\r\n"

    async def _whole(self, fault: str, content: object) -> bool:
        if fault == "cut_plain":
            raw = json.dumps(content).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
            self._writer.write(head + raw[:20])
            return False
        wire.answer(self._writer, 200, content)
        await self._writer.drain()
        self.is_complete = True
        return True

    async def _stream(self, fault: str) -> bool:
        more_headers = "connection: close\r\n" if fault == "says_close" else ""
        self._writer.write(wire.STREAM_HEAD.format(more_headers).encode())
        if fault == "hang_after_headers":
            await asyncio.sleep(FOREVER_SECONDS)
        if fault in answers.FIRST_EVENT:
            wire.event(self._writer, answers.FIRST_EVENT[fault])
            self._writer.write(wire.LAST_CHUNK)
            await self._writer.drain()
            return True
        if fault == "pings_first":
            for _ in range(3):
                wire.chunk(self._writer, b": ping\n\n")
                await asyncio.sleep(0.02)
        await asyncio.sleep(self._play.first_pause)
        await self._events(fault)
        if fault == "slams_the_door":  # says nothing, but is gone before the next request
            await asyncio.sleep(0.05)
            return False
        return fault not in _CLOSES

    async def _events(self, fault: str) -> None:
        if answers.calls_tools(self._body, self._play):
            await self._calls()
            return
        most = answers.most_tokens(self._body, self._play)
        for number in range(min(most, self._play.tokens)):
            if fault and number == EVENTS_BEFORE_A_BREAK and await self._breaks_off(fault):
                return
            text = "data: [DONE]" if fault == "done_in_content" else "x" * self._play.size
            wire.event(self._writer, answers.piece(self._path, self._model, text, None))
            self.predicted_tokens += 1
            await self._writer.drain()
            await asyncio.sleep(self._play.pause)
        reason = "stop" if self._play.tokens <= most else "length"
        wire.event(self._writer, answers.piece(self._path, self._model, "", reason))
        wire.event(self._writer, answers.usage_piece(self._play, min(most, self._play.tokens)))
        if fault != "end_without_done":
            wire.event(self._writer, "[DONE]")
        if fault != "close_after_done":
            self._writer.write(wire.LAST_CHUNK)
        await self._writer.drain()
        self.is_complete = fault != "end_without_done"

    async def _calls(self) -> None:
        """Call functions, piece by piece; a piece counts as a token."""
        pieces = answers.call_pieces(self._model, self._play)
        for piece in pieces:
            wire.event(self._writer, piece)
            self.predicted_tokens += 1
            await self._writer.drain()
            await asyncio.sleep(self._play.pause)
        wire.event(self._writer, answers.piece(self._path, self._model, "", "tool_calls"))
        wire.event(self._writer, answers.usage_piece(self._play, len(pieces)))
        wire.event(self._writer, "[DONE]")
        self._writer.write(wire.LAST_CHUNK)
        await self._writer.drain()
        self.is_complete = True

    async def _breaks_off(self, fault: str) -> bool:
        """Play a fault in the middle of a stream; True when nothing may follow."""
        await asyncio.sleep(0.02)  # what was sent arrives first
        if fault == "half_event_then_stall":
            wire.chunk(self._writer, b'data: {"id": "c", "choi')
            await asyncio.sleep(FOREVER_SECONDS)
        if fault == "reset_in_stream":
            wire.reset(self._writer)
        elif fault == "garbage_in_stream":
            wire.event(self._writer, answers.GARBAGE)
            await asyncio.sleep(0.02)
        elif fault == "error_event_in_stream":
            wire.event(self._writer, answers.ERROR_EVENT)
            self._writer.write(wire.LAST_CHUNK)
        return fault in ("close_in_stream", "reset_in_stream", "error_event_in_stream")
