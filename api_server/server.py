"""Runs the gateway under uvicorn: drains on the first signal, hurries on the second."""

import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import math
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from types import FrameType

import msgspec
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api_server.composition import ALONE, Worker
from api_server.errors import ApiError, HeadTooLargeError, InvalidRequestError, SetupError
from api_server.main import Gateway, create_app
from api_server.observability.record import new_request_id
from api_server.routes.token_path import CONNECTION
from api_server.settings import Settings

BACKLOG = 2048
REQUEST_SECONDS = 30.0
"""A connection without a request, or with one that has no end, is dropped after that."""
MAX_HEAD_BYTES = 64 * 1024
"""A request head that is longer, by a read or two, is refused."""
MAX_PIPELINED = 16
"""With more requests waiting on one connection, no more is read of it."""

LINGER_SECONDS = 2.0
"""After the end has begun, connections without a request are kept for so long: a proxy in front may
not have noticed yet, and what it sends on one is answered. With it, `connection: close`.
"""
FRESH_SECONDS = 0.5
"""The same of a connection that was never used, from its first moment on: its request may come."""

MAX_SOCKET_BYTES = 64 * 1024
"""Of a message that a client sends over a WebSocket; ours have nothing to hear."""

M_ARENA_MAX = -8
"""Of mallopt(3)."""

_UPGRADE = re.compile(rb"(?i)\r\nupgrade:[^\r\n]*")
_SOCKETS = b"/ws/requests/"
"""How the paths begin that may change the protocol."""
_WEBSOCKET = re.compile(rb"(?i)GET /ws/requests/[^\r]*\r\n(?:[^\r]+\r\n)*upgrade: *websocket *\r\n")

log = logging.getLogger(__name__)


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, with what it lacks: word of a lost client, bounds, our envelope.

    It is the `Connection` that the token path finds in the scope.
    """

    _on_lost: Callable[[], None] | None = None
    _running: RequestResponseCycle | None = None
    _refusal: ApiError | None = None
    _is_in_message = False
    _may_change = False
    """Whether this request may go on as a WebSocket: the path has them, nobody else is answered."""
    _waits_since = 0.0
    _is_draining = False
    _unheard_bytes = 0
    """Received and not heard of again: a head, a chunk's size, a trailer that have no end."""

    # what the token path asks

    @property
    def has_whole_body(self) -> bool:
        return not self.cycle.more_body

    @property
    def is_stalled(self) -> bool:
        return self.flow.write_paused

    async def drained(self) -> None:
        await self.flow.drain()

    def when_lost(self, callback: Callable[[], None]) -> None:
        self._on_lost = callback
        if self.transport.is_closing():
            self._tell_lost()
        self.flow.resume_reading()  # or nobody would see the client leave

    def forget(self, callback: Callable[[], None]) -> None:
        if self._on_lost is callback:
            self._on_lost = None

    def abort(self) -> None:
        self.transport.abort()

    # what the server asks

    def is_overdue(self, now: float) -> bool:
        """Whether a client takes too long over a request that nobody waits for with a time-out."""
        is_waiting = self.cycle is None or (self._is_in_message and not self._is_answering)
        return is_waiting and now - self._waits_since > REQUEST_SECONDS

    def drain(self, linger_seconds: float) -> None:
        """Answer what has come or still comes; each head that is written from now on says
        `connection: close`. After the time the connection ends when nothing runs on it.
        """
        self._is_draining = True
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False
        is_unused = self.cycle is None
        fresh_seconds = self._waits_since + FRESH_SECONDS - self.loop.time() if is_unused else 0.0
        seconds = max(linger_seconds, fresh_seconds)
        if seconds > 0:
            self.loop.call_later(seconds, self._end)
        else:
            self._end()

    def shutdown(self) -> None:
        """Uvicorn's call; `drain` came before it."""

    # what asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells the newest request only
            self._running.disconnected = True
            self._running.message_event.set()
        self._tell_lost()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if not self._is_in_message and b"pgrade:" in data and not _WEBSOCKET.match(data):
            data = without_upgrade(data)
        self._unheard_bytes += len(data)
        super().data_received(data)
        if self._unheard_bytes > MAX_HEAD_BYTES and self._is_in_message:
            self._refuse(HeadTooLargeError("The request's headers are too large."))

    # what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        self._is_in_message = True
        self._waits_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._unheard_bytes = 0
        is_alone = not self._is_answering and not self.pipeline
        self._may_change = is_alone and self.url.startswith(_SOCKETS)
        super().on_headers_complete()
        if self._is_draining:
            self.cycle.keep_alive = False
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()  # or nobody would see the client leave

    def on_body(self, body: bytes) -> None:
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unheard_bytes = 0
        self._is_in_message = False
        super().on_message_complete()

    # what uvicorn calls

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None and not self._is_answering:
            self._write_refusal(self._refusal)

    def _should_upgrade(self) -> bool:
        return self._may_change and super()._should_upgrade()

    def send_400_response(self, _msg: str) -> None:
        self._refuse(InvalidRequestError("This is not a request in HTTP/1.1."))

    # inside

    @property
    def _is_answering(self) -> bool:
        running = self._running
        return running is not None and not (running.response_complete or running.disconnected)

    def _tell_lost(self) -> None:
        callback, self._on_lost = self._on_lost, None
        if callback is not None:
            callback()

    def _end(self) -> None:
        """Close the connection, once what runs on it is answered."""
        if self._is_answering or self.pipeline:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Refuse what cannot be read, once the requests before it are answered; read no more."""
        if self.cycle is not None and self.cycle.more_body:  # it is this one's body
            if self.cycle is not self._running:
                self.pipeline.popleft()
            elif not self._running.response_started:  # it will not be answered: this is its answer
                self._running.disconnected = True
                self._running.message_event.set()
        self._refusal = error
        if not self._is_answering:
            self._write_refusal(error)

    def _write_refusal(self, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        request_id = new_request_id()
        body = msgspec.json.encode(error.envelope())
        phrase = HTTPStatus(error.status).phrase
        head = f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\n"
        head += f"x-request-id: {request_id}\r\nserver-timing: gateway;dur=0.00\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
        fields = {"request_id": request_id, "status": error.status, "error_code": error.code}
        log.info("refused what is no request", extra=fields)


def without_upgrade(data: bytes) -> bytes:
    """A request without its wish for another protocol, which may be left unheard (RFC 9110, 7.8).

    The parser would take the body for that other protocol. Pure.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest


class Server(uvicorn.Server):
    """Uvicorn, with a second TERM that counts, an eye on clients that never end a request, and an
    end that loses none.

    From the first TERM on it takes requests for `notice_seconds` more, in which `/health/open` says
    that it will not; then the port is closed, and `linger_seconds` begin (see `LINGER_SECONDS`).
    """

    def __init__(
        self, config: uvicorn.Config, *, notice_seconds: float = 0.0, linger_seconds: float = 0.0
    ) -> None:
        super().__init__(config)
        self._notice_seconds = notice_seconds
        self._linger_seconds = linger_seconds
        self._closes_at = math.inf

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if time.monotonic() >= self._closes_at:
            self.should_exit = True
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, _Protocol) and connection.is_overdue(now):
                    connection.abort()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Jobs drain while the answers do. Nothing waits before the listener is closed."""
        if isinstance(self.config.app, Gateway):
            self.config.app.begin_drain()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Protocol):
                connection.drain(self._linger_seconds)
        loop = asyncio.get_running_loop()
        taken = {loop.create_task(self._take(each)) for each in _waiting_at(sockets or ())}
        await super().shutdown(sockets)
        if taken:
            await asyncio.wait(taken)

    async def _take(self, accepted: socket.socket) -> None:
        """A connection that had come before the end began."""

        def protocol() -> _Protocol:
            return _Protocol(self.config, self.server_state, self.lifespan.state)

        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(protocol, accepted)
        connection.drain(self._linger_seconds)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """First signal: finish what runs. Second: running answers end with an error event."""
        is_first = math.isinf(self._closes_at) and not self.should_exit
        self._closes_at = time.monotonic() + (self._notice_seconds if is_first else 0)
        if isinstance(self.config.app, Gateway):
            self.config.app.health.is_closing = True
        if is_first and self._notice_seconds:
            return
        if not is_first:
            for task in self.server_state.tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
        self.should_exit = True


def _waiting_at(listeners: Iterable[socket.socket]) -> Iterator[socket.socket]:
    """Connections that the kernel has made and nobody has taken; closing would reset them."""
    for listener in listeners:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                accepted, _ = listener.accept()
                accepted.settimeout(0)  # as the event loop wants it
                yield accepted


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `SetupError` that says what to do when there can be none."""
    try:
        family, type_, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as exc:
        raise SetupError(f"HOST {host} is no address of this machine; try 127.0.0.1.") from exc
    listener = socket.socket(family, type_, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Port {port} on {host} is taken. Stop the program that listens there, or choose "
                f"another: PORT={port + 1 if port < 65535 else 8000}"
            ) from exc
        raise SetupError(f"Cannot listen on {host}, port {port}: {exc.strerror}.") from exc
    return listener


def _inherited(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except OSError as exc:
        raise SetupError(f"LISTEN_FD {fd} is no open socket; leave it unset.") from exc


def open_listener(settings: Settings) -> socket.socket:
    """The socket to serve on: the one that was handed to us, else a new one."""
    environment = settings.environment
    if environment.listen_fd is not None:
        return _inherited(environment.listen_fd)
    return listen(environment.host, environment.port)


def serve(settings: Settings) -> None:
    """Serve in this process until a signal; returns when everything is closed."""
    with open_listener(settings) as listener:
        serve_on(listener, settings)


def serve_on(listener: socket.socket, settings: Settings, worker: Worker = ALONE) -> None:
    """Serve on a listening socket until a signal."""
    gateway = create_app(settings, worker)
    share_arenas()
    gc.collect()
    gc.freeze()  # what start-up made stays: looking through it again cost a tenth of the CPU time
    Server(
        configuration(gateway, settings),
        notice_seconds=settings.environment.drain_notice_seconds,
        linger_seconds=0.0 if settings.is_development else LINGER_SECONDS,
    ).run(sockets=[listener])


def share_arenas() -> None:
    """Have threads share two arenas of memory (glibc): each that waits for the object store would
    keep one of its own, some megabytes in all.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def configuration(gateway: Gateway, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs a gateway."""
    return uvicorn.Config(
        gateway,
        loop="uvloop",
        http=_Protocol,
        ws="websockets-sansio",
        ws_max_size=MAX_SOCKET_BYTES,
        ws_max_queue=4,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        timeout_keep_alive=75,
    )
