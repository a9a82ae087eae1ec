"""The routes whose answers come from an engine, as raw ASGI: the path that every token takes.

FastAPI's machinery would cost more than the whole gateway here (docs/decisions/0002).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from api_server.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientLeftError,
    MethodNotAllowedError,
)
from api_server.observability.record import Content, RequestRecord, record_of
from api_server.schemas.apps import ANYONE, CALLER, Caller
from api_server.services.client import CacheWish, Client, Headers

CONNECTION = "llm_serving_stack.connection"
"""An ASGI extension of our server (server.py): the client's `Connection`."""

RETRY_COUNT = b"x-stainless-retry-count"
"""OpenAI's official clients say in this header how often they have tried already."""

CACHE = b"x-cache"
CACHE_WISHES: Mapping[bytes, CacheWish] = {b"use": "use", b"no-store": "no-store"}

JSON_HEADER = (b"content-type", b"application/json")
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

Serve = Callable[[bytes, Client, RequestRecord], Awaitable[None]]


class Connection(Protocol):
    """What our server knows of a client's connection, beyond ASGI."""

    @property
    def has_whole_body(self) -> bool:
        """Whether the request's body is here already, so that nothing has to be waited for."""

    @property
    def is_stalled(self) -> bool:
        """Whether the client has not read what was sent, so that more would have to wait."""

    async def drained(self) -> None:
        """Wait until the client has read enough of what was sent."""

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Call this as soon as the connection is gone, which may be at once."""

    def forget(self, callback: Callable[[], None]) -> None:
        """Call this no more. A pipelined request may have put its own in its place already."""

    def abort(self) -> None:
        """Drop the connection at once."""


class TokenPath:
    """Hands the paths it knows to raw ASGI endpoints and the rest to the application behind."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            try:
                await self._rest(scope, receive, send)
            finally:  # the router leaves the route it chose in the scope
                record_of(scope).route = getattr(scope.get("route"), "path", "other")
            return
        record_of(scope).route = scope["path"]
        if scope["method"] != "POST":
            raise MethodNotAllowedError(
                f"{scope['path']} takes POST, not {scope['method']}.", headers={"allow": "POST"}
            )
        await endpoint(scope, receive, send)


class AsgiClient:
    """The `Client` of the services: one ASGI response."""

    def __init__(self, scope: Scope, send: Send, stall_seconds: float) -> None:
        self._scope = scope
        self._send = send
        self._stall_seconds = stall_seconds
        self.connection: Connection = scope["extensions"][CONNECTION]
        self.has_begun = False
        self.has_ended = False
        self.has_left = False
        self.content: Content | None = None

    @property
    def caller(self) -> Caller:
        """Which app it is, as the authentication found."""
        caller: Caller = self._scope.get(CALLER, ANYONE)
        return caller

    @property
    def is_retry(self) -> bool | None:
        """Whether the client says that it was sent away before."""
        for name, value in self._scope["headers"]:
            if name == RETRY_COUNT:
                return value not in (b"", b"0")
        return None

    @property
    def cache_wish(self) -> CacheWish | None:
        """What the client says of answers that were given before; what is no wish, is none."""
        for name, value in self._scope["headers"]:
            if name == CACHE:
                return CACHE_WISHES.get(value.strip().lower())
        return None

    async def answer(self, body: bytes, headers: Headers = ()) -> None:
        self.has_begun = True
        length = (b"content-length", b"%d" % len(body))
        message = {
            "type": "http.response.start",
            "status": 200,
            "headers": [JSON_HEADER, length, *headers],
        }
        if self.content is not None:
            self.content.add(body)
        await self._send(message)
        await self._send({"type": "http.response.body", "body": body})
        self.has_ended = True
        if self.connection.is_stalled:
            await self._drained()

    async def begin_stream(self, headers: Headers = ()) -> None:
        self.has_begun = True
        message = {
            "type": "http.response.start",
            "status": 200,
            "headers": [*STREAM_HEADERS, *headers],
        }
        await self._send(message)

    async def events(self, block: bytes) -> None:
        if not block:
            return
        if self.connection.is_stalled:
            await self._drained()
        if self.content is not None:
            self.content.add(block)
        await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end_stream(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})
        self.has_ended = True

    def cut_off(self) -> None:
        self.connection.abort()

    async def _drained(self) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self.connection.drained()
        except TimeoutError as exc:
            self.cut_off()
            raise ClientLeftError("stalled") from exc


class TokenEndpoint:
    """An ASGI application for one verb of a service.

    `stall_seconds` is how long a client may leave a stream unread before it is cut off.
    """

    def __init__(
        self, serve: Serve, *, max_body_bytes: int, body_seconds: float, stall_seconds: float
    ) -> None:
        self._serve = serve
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        client = AsgiClient(scope, send, self._stall_seconds)
        caller = client.caller
        record.app_id, record.app, record.user = caller.app.id, caller.app.name, caller.user
        body = await read_body(scope, receive, self._max_body_bytes, self._body_seconds)
        if caller.app.policy.store_content:
            record.content = client.content = Content(body)
        task = asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            if not client.has_ended:  # then it is the server that closes the connection
                client.has_left = True
                task.cancel()

        client.connection.when_lost(cancel)
        try:
            await self._serve(body, client, record)
        except asyncio.CancelledError as exc:
            if client.has_left:
                task.uncancel()
                raise ClientLeftError from exc
            raise
        finally:
            client.connection.forget(cancel)


async def read_body(scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """The whole body, within a size and a time; one that is announced too large is not read."""
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes.")
    connection: Connection = scope["extensions"][CONNECTION]
    if connection.has_whole_body:  # nearly always; a timer would cost more than the reading
        return await _joined(receive, max_bytes)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            return await _joined(receive, max_bytes)
    except TimeoutError as exc:
        raise BodyTimeoutError(f"The body did not arrive within {seconds:g} s.") from exc
    finally:
        record_of(scope).upload_ms = round((time.perf_counter() - began) * 1000, 3)


async def _joined(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes.")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
