"""An answer that is content of unknown pace: sent as it is read, to a client that may be slow."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api_server.errors import ClientLeftError
from api_server.routes.token_path import CONNECTION, Connection


class ContentAnswer(Response):
    """`length` bytes. What breaks off ends the connection: it never looks whole.

    A client that reads nothing for `stall_seconds` is cut off.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        length: int,
        headers: Mapping[str, str],
        *,
        status: int,
        stall_seconds: float,
    ) -> None:
        super().__init__(status_code=status, headers={**headers, "content-length": str(length)})
        self._chunks = chunks
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        connection: Connection = scope["extensions"][CONNECTION]
        has_left = asyncio.Event()
        connection.when_lost(has_left.set)
        try:
            async with aclosing(self._chunks) as chunks:
                chunk = await anext(chunks)  # an error before the first byte is an answer
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
                try:
                    await self._send(send, connection, chunk)
                    async for chunk in chunks:
                        if has_left.is_set():
                            raise ClientLeftError
                        await self._send(send, connection, chunk)
                except BaseException:
                    connection.abort()
                    raise
                await send({"type": "http.response.body", "body": b""})
        finally:
            connection.forget(has_left.set)

    async def _send(self, send: Send, connection: Connection, chunk: bytes) -> None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not connection.is_stalled:
            return
        try:
            async with asyncio.timeout(self._stall_seconds):
                await connection.drained()
        except TimeoutError as exc:
            raise ClientLeftError("stalled") from exc
