"""A mock engine: as fast as Python can answer, so that what is measured is what stands before it.

A plain request gets one prerendered chat completion of about 0.4 kB. A stream that asks for
`max_tokens` gets them one event at a time, each stream one a tick, as llama-server sends them; a
stream that asks for no number gets a short one at once. Any GET is answered, for health checks.

`python -m benchmarks.mock_engine LISTEN_FD... [--tokens-per-second N]` serves until it is stopped.
"""

import argparse
import asyncio
import gc
import json
import re
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import uvloop

from benchmarks.wire import PLAIN_TEXT, PLAIN_TOKENS, WORD

TOKENS_PER_SECOND = 200
"""Of each stream: 256 streams are offered 51,200 tokens a second, 16 streams 3,200."""

PROMPT_TOKENS = 16
_ID = "chatcmpl-0123456789abcdefghijklmnopqrstuv"
_CREATED = 1790000000
_STREAM = re.compile(rb'"stream":\s*true')
_MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')


def _usage(tokens: int) -> dict[str, Any]:
    total = PROMPT_TOKENS + tokens
    return {"completion_tokens": tokens, "prompt_tokens": PROMPT_TOKENS, "total_tokens": total}


def _rendered(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _whole(document: Any) -> bytes:
    """An answer with a length."""
    body = _rendered(document)
    head = "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: application/json; charset=utf-8\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _event(data: bytes) -> bytes:
    """One event as one HTTP chunk."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"finish_reason": finish_reason, "index": 0, "delta": delta}
    return _event(_rendered({"choices": [choice]} | _CHUNK))


_CHUNK = {
    "created": _CREATED,
    "id": _ID,
    "model": "bench",
    "system_fingerprint": "b0-mock",
    "object": "chat.completion.chunk",
}
_MESSAGE = {"role": "assistant", "content": PLAIN_TEXT}
PLAIN = _whole(
    {
        "choices": [{"finish_reason": "stop", "index": 0, "message": _MESSAGE}],
        "created": _CREATED,
        "id": _ID,
        "model": "bench",
        "system_fingerprint": "b0-mock",
        "object": "chat.completion",
        "usage": _usage(PLAIN_TOKENS),
    }
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + _chunk({"role": "assistant", "content": None})
)
TOKEN_CHUNK = _chunk({"content": WORD})


def stream_end(tokens: int, finish_reason: str) -> bytes:
    """The chunks after the last token: the finish, the usage, [DONE], the end of the body."""
    usage = _rendered({"choices": []} | _CHUNK | {"usage": _usage(tokens)})
    return _chunk({}, finish_reason) + _event(usage) + _event(b"[DONE]") + b"0\r\n\r\n"


SHORT_STREAM = STREAM_HEAD + TOKEN_CHUNK * PLAIN_TOKENS + stream_end(PLAIN_TOKENS, "stop")

_SLOT = {"id": 0, "n_ctx": 4096, "is_processing": False}
_MODEL = {"id": "bench", "object": "model", "created": _CREATED, "owned_by": "mock"}
ABOUT = {
    b"/props": _whole({"total_slots": 1024, "default_generation_settings": {"n_ctx": 4096}}),
    b"/slots": _whole([_SLOT]),
    b"/v1/models": _whole({"object": "list", "data": [_MODEL]}),
}
OK = _whole({"status": "ok", "model_path": "bench", "served_model_name": "bench"})


class Ticker:
    """Gives every running stream its next token, once a tick."""

    def __init__(self, tokens_per_second: float) -> None:
        self._interval = 1 / tokens_per_second
        self._loop = asyncio.get_running_loop()
        self._streams: dict[EngineConnection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "EngineConnection") -> None:
        self._streams[connection] = None
        if self._timer is None:
            self._plan(self._loop.time() + self._interval)

    def remove(self, connection: "EngineConnection") -> None:
        self._streams.pop(connection, None)

    def _plan(self, at: float) -> None:
        self._timer = self._loop.call_at(at, self._tick, at)

    def _tick(self, planned: float) -> None:
        for connection in list(self._streams):
            if connection.next_token():
                del self._streams[connection]
        if self._streams:
            # A tick that is late is not made up for by more than one.
            self._plan(max(planned + self._interval, self._loop.time()))
        else:
            self._timer = None


class EngineConnection(asyncio.Protocol):
    """One connection from whoever asks."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._tokens = self._left = 0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ticker.remove(self)
        self._transport = None

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                break
            lowered = data[:end].lower()
            at = lowered.find(b"content-length:")
            length = int(lowered[at + 15 : lowered.find(b"\r", at)]) if at >= 0 else 0
            if len(data) < end + length:
                break
            self._answer(data[:end], data[end : end + length])
            data = data[end + length :]
        self._rest = data

    def _answer(self, head: bytes, body: bytes) -> None:
        if self._transport is None:
            return
        if not head.startswith(b"POST "):
            self._transport.write(ABOUT.get(head.split(b" ", 2)[1], OK))
        elif not _STREAM.search(body):
            self._transport.write(PLAIN)
        elif (asked := _MAX_TOKENS.search(body)) is None:
            self._transport.write(SHORT_STREAM)
        else:
            self._tokens = int(asked[1])
            self._left = self._tokens - 1
            self._transport.write(STREAM_HEAD + TOKEN_CHUNK)
            self._ticker.add(self)

    def next_token(self) -> bool:
        """Send the next token, unless the reader is behind; whether the stream is over."""
        if self._transport is None:
            return True
        if self._is_paused:
            return False
        if self._left > 0:
            self._left -= 1
            self._transport.write(TOKEN_CHUNK)
            return False
        self._transport.write(stream_end(self._tokens, "length"))
        return True


async def serve(listeners: Sequence[socket.socket], tokens_per_second: float) -> None:
    """Serve on all of them until cancelled."""
    ticker = Ticker(tokens_per_second)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for listener in listeners:
            server = await loop.create_server(
                lambda: EngineConnection(ticker), sock=listener, backlog=2048
            )
            await stack.enter_async_context(server)
        gc.freeze()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("listen_fds", type=int, nargs="+")
    parser.add_argument("--tokens-per-second", type=float, default=TOKENS_PER_SECOND)
    arguments = parser.parse_args()
    listeners = [socket.socket(fileno=fd) for fd in arguments.listen_fds]
    uvloop.run(serve(listeners, arguments.tokens_per_second))


if __name__ == "__main__":
    main()
