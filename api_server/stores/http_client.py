"""A small HTTP/1.1 client for stores that speak HTTP: kept connections, whole answers, no threads.

A call that is cancelled closes its connection, so that a server that hangs holds nothing of ours.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

MOST_IDLE = 16
MAX_ANSWER_BYTES = 64 * 1024 * 1024
READ_BYTES = 256 * 1024


class ConnectionBrokenError(OSError):
    """The connection ended before the answer did, or what came is no HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: `body` is whole."""

    status: int
    body: bytes


class HttpClient:
    """Requests to one server. Each uses a connection of its own, kept for the next one.

    Raises `OSError` where the server does not answer. Has no time-outs: whoever calls has, and
    cancels.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._path = parts.path.rstrip("/")
        lines = {"host": parts.netloc.rpartition("@")[2]} | dict(headers)
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[_Connection] = []

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """May send a request twice, where a kept connection turns out to be closed."""
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._head}"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        request = f"{head}\r\n".encode("latin-1") + (body or b"")
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, request)
            except ConnectionError:  # the server closed it while nobody used it
                self.forget_idle()
            except ConnectionBrokenError:
                if connection.has_heard:
                    raise
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._ssl, limit=READ_BYTES
        )
        return await self._exchange(_Connection(reader, writer), request)

    def forget_idle(self) -> None:
        """Close what is kept: after an outage it may be dead without knowing it."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _exchange(self, connection: "_Connection", request: bytes) -> Answer:
        is_reusable = False
        try:
            answer, is_reusable = await connection.exchange(request)
        finally:
            if is_reusable and len(self._idle) < MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.close()
        return answer


class _Connection:
    """One connection, one exchange at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.has_heard = False

    async def exchange(self, request: bytes) -> tuple[Answer, bool]:
        """The answer, and whether the connection can be used again."""
        self.has_heard = False
        incoming = _Incoming()
        incoming.parser = parser = httptools.HttpResponseParser(incoming)
        self._writer.write(request)
        await self._writer.drain()
        while not incoming.is_complete:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionBrokenError("the server closed the connection")
            self.has_heard = True
            incoming.size += len(data)
            if incoming.size > MAX_ANSWER_BYTES:
                raise ConnectionBrokenError("the server's answer is too long")
            try:
                parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
                raise ConnectionBrokenError("the server does not speak HTTP") from exc
            incoming.status = parser.get_status_code()
        return Answer(incoming.status, b"".join(incoming.chunks)), incoming.stays_open

    def close(self) -> None:
        self._writer.close()


class _Incoming:
    """What the parser tells."""

    parser: httptools.HttpResponseParser

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.status = 0
        self.is_complete = False
        self.stays_open = False

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True
        self.stays_open = self.parser.should_keep_alive()  # forgotten as soon as this returns
        del self.parser  # it holds us as well
