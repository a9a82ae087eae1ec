"""`POST /v1/chat/completions` and `/v1/completions`, as raw ASGI: the path every token takes.

FastAPI's machinery would cost more than the whole gateway here (docs/decisions/0002).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from api_server.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientLeftError,
    ShuttingDownError,
)
from api_server.observability.record import record_of
from api_server.services.completions import SHUTTING_DOWN, Completions
from api_server.services.requests import Kind

ABORT = "llm_serving_stack.abort"
"""An ASGI extension of our server (server.py): a function that drops the connection."""

JSON_HEADERS = (b"content-type", b"application/json")
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AsgiClient:
    """The `Client` of the service: one ASGI response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.has_begun = False
        self.has_left = False

    async def answer(self, body: bytes) -> None:
        self.has_begun = True
        headers = [JSON_HEADERS, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_stream(self) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def events(self, block: bytes) -> None:
        if block:
            await self._send({"type": "http.response.body", "body": block, "more_body": True})

    async def end_stream(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    def cut_off(self) -> None:
        abort = (self._scope.get("extensions") or {}).get(ABORT)
        if abort is not None:  # a server other than ours (a test's) may not offer it
            abort()


class CompletionsEndpoint:
    """An ASGI application for one `Kind` of generation."""

    def __init__(
        self, kind: Kind, completions: Completions, *, max_body_bytes: int, body_seconds: float
    ) -> None:
        self._kind = kind
        self._completions = completions
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        body = await read_body(scope, receive, self._max_body_bytes, self._body_seconds)
        client = AsgiClient(scope, send)
        async with cancelled_when_client_leaves(receive, client):
            await self._completions.serve(self._kind, body, client, record)


async def read_body(scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """The whole body, within a size and a time; one that is announced too large is not read."""
    parts: list[bytes] = []
    size = 0
    announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLargeError(f"The body is larger than {max_bytes} bytes.")
    try:
        async with asyncio.timeout(seconds):
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
    except TimeoutError as exc:
        raise BodyTimeoutError(f"The body did not arrive within {seconds:g} s.") from exc


@asynccontextmanager
async def cancelled_when_client_leaves(receive: Receive, client: AsgiClient) -> AsyncIterator[None]:
    """Cancel the block as soon as the client's connection is gone, in whatever it waits for.

    Raises `ClientLeftError` then. Any other cancellation is the server going down: it becomes
    `ShuttingDownError` while a status can still be sent.
    """
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        client.has_left = True
        task.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    except asyncio.CancelledError as exc:
        if client.has_left:
            task.uncancel()
            raise ClientLeftError from exc
        if client.has_begun:
            raise
        task.uncancel()
        raise ShuttingDownError(SHUTTING_DOWN, retry_after_seconds=1) from exc
    finally:
        watcher.cancel()
