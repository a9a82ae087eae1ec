"""A small HTTP/1.1 client for engines: keep-alive connections, one exchange at a time, streamed.

Owns sockets, time-outs and back-pressure; knows nothing of models. It exists because general
clients cost ten times more per request than the rest of the gateway together (docs/decisions/0002).
"""

import asyncio
import collections
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

BUFFER_HIGH_BYTES = 256 * 1024
"""Above this many unread bytes the socket is not read any more, until the reader caught up."""

MAX_HEADER_BYTES = 64 * 1024


class EngineConnectionError(Exception):
    """The connection failed; `sent` tells whether the engine may have seen the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class EngineSilenceError(Exception):
    """Nothing arrived within the time allowed."""


@dataclass(frozen=True)
class Origin:
    """Where an engine listens: scheme, host, port, and the path its API hangs under."""

    scheme: str
    host: str
    port: int
    base_path: str

    @classmethod
    def parse(cls, url: str) -> "Origin":
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection to an engine.

    `send` writes a request, `headers` waits for the status line and headers, `read` returns the
    next body bytes and `b""` at the end. A connection is used again only when `is_reusable`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._chunks: collections.deque[bytes] = collections.deque()
        self._buffered_bytes = 0
        self._is_paused = False
        self._has_headers = False
        self._is_complete = False
        self._stays_open = False
        self.received_bytes = 0
        self.response_headers: dict[str, str] = {}
        self.status = 0

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        if self._is_complete:
            self._fail("the engine spoke out of turn")
            return
        if not self._has_headers and self.received_bytes > MAX_HEADER_BYTES + len(data):
            self._fail("the engine sent too many headers")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:  # from on_message_begin
            self._fail("the engine answered twice")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._fail(f"the engine did not answer in HTTP: {type(exc).__name__}")
            return
        if self._buffered_bytes > BUFFER_HIGH_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._has_headers and self._ends_with_connection():
            self._is_complete = True
        self._lost = self._lost or "the engine closed the connection"
        self._transport = None
        self._wake()

    # what the parser calls

    def on_message_begin(self) -> None:
        """Refuse a second answer: what follows is not parsed, what came before stands."""
        if self._is_complete:
            raise EngineConnectionError("the engine answered twice", sent=True)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.response_headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_headers = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # an interim answer such as 100 Continue
            self._has_headers = False
            self.response_headers = {}
            return
        self._is_complete = True
        self._stays_open = self._parser.should_keep_alive()  # later the parser has forgotten

    # what the handler calls

    def send(self, request: bytes) -> None:
        """Begin an exchange. Raises `EngineConnectionError` when the connection is gone."""
        if self._is_complete:
            self._reset()
        if self._transport is None:
            raise EngineConnectionError("the engine closed the connection", sent=False)
        self._transport.write(request)

    async def headers(self, timeout_seconds: float) -> None:
        """Wait for the headers; then `status` and `response_headers` are set."""
        deadline = self._loop.time() + timeout_seconds
        while not self._has_headers:
            self._raise_if_lost()
            await self._wait(deadline - self._loop.time())

    async def read(self, timeout_seconds: float) -> bytes:
        """The next body bytes, `b""` at the end of the answer."""
        deadline = self._loop.time() + timeout_seconds
        while not self._chunks:
            if self._is_complete:
                return b""
            self._raise_if_lost()
            await self._wait(deadline - self._loop.time())
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    @property
    def is_reusable(self) -> bool:
        """Whether the answer is over and the engine keeps the connection open."""
        return self._is_complete and not self._chunks and self.is_open and self._stays_open

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Drop the connection at once; an engine that notices stops its work."""
        if self._transport is not None:
            self._transport.abort()

    # inside

    def _ends_with_connection(self) -> bool:
        headers = self.response_headers
        return "content-length" not in headers and "transfer-encoding" not in headers

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        self.abort()
        self._wake()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise EngineConnectionError(self._lost, sent=True)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(max(seconds, 0.0), self._time_out, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    @staticmethod
    def _time_out(waiter: "asyncio.Future[None]") -> None:
        if not waiter.done():
            waiter.set_exception(EngineSilenceError())


class Pool:
    """The connections to one origin. Idle ones serve again for `idle_seconds`, newest first."""

    def __init__(
        self,
        origin: Origin,
        *,
        connect_timeout_seconds: float,
        max_idle: int = 64,
        idle_seconds: float = 3.0,
    ) -> None:
        self.origin = origin
        self._connect_timeout_seconds = connect_timeout_seconds
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._idle: collections.deque[tuple[Connection, float]] = collections.deque()
        self._ssl = ssl.create_default_context() if origin.scheme == "https" else None

    async def acquire(self, *, fresh: bool = False) -> tuple[Connection, bool]:
        """A connection, and whether it was used before. `fresh` demands a new one."""
        loop = asyncio.get_running_loop()
        while self._idle and not fresh:
            connection, idle_since = self._idle.pop()
            if connection.is_open and loop.time() - idle_since < self._idle_seconds:
                return connection, True
            connection.abort()
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                _, connection = await loop.create_connection(
                    Connection, self.origin.host, self.origin.port, ssl=self._ssl
                )
        except TimeoutError as exc:
            raise EngineConnectionError("connecting took too long", sent=False) from exc
        except (OSError, UnicodeError) as exc:  # the latter for a name that cannot be one
            raise EngineConnectionError("the connection was refused", sent=False) from exc
        return connection, False

    def release(self, connection: Connection) -> None:
        """Give a connection back. One whose answer is not over is dropped: that is the cancel."""
        now = asyncio.get_running_loop().time()
        while self._idle and now - self._idle[0][1] >= self._idle_seconds:
            self._idle.popleft()[0].abort()
        if connection.is_reusable and len(self._idle) < self._max_idle:
            self._idle.append((connection, now))
        else:
            connection.abort()

    def close(self) -> None:
        for connection, _ in self._idle:
            connection.abort()
        self._idle.clear()


def render_head(method: str, origin: Origin, path: str, headers: Mapping[str, str]) -> bytes:
    """The first lines of a request, without the empty one that ends them.

    Header values must come from our configuration, never a client.
    """
    lines = [f"{method} {origin.base_path}{path} HTTP/1.1", f"host: {origin.host_header}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, ""]).encode("latin-1")
