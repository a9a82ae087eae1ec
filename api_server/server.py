"""Runs the gateway under uvicorn: drains on the first signal, hurries on the second."""

import errno
import socket
from types import FrameType

import uvicorn

from api_server.errors import SetupError
from api_server.main import Gateway, create_app
from api_server.settings import Settings

BACKLOG = 2048


class _Server(uvicorn.Server):
    """Uvicorn, with a drain that tells readiness and a second TERM that counts."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """First signal: finish what runs. Second: running answers end with an error event."""
        self._gateway.health.is_draining = True
        if self.should_exit:
            for task in self.server_state.tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
        self.should_exit = True


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


def serve(settings: Settings) -> None:
    """Serve until a signal; returns when everything is closed."""
    listener = listen(settings.environment.host, settings.environment.port)
    gateway = create_app(settings)
    config = uvicorn.Config(
        gateway,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.stack.gateway.drain_seconds),
        timeout_keep_alive=75,
    )
    with listener:
        _Server(config, gateway).run(sockets=[listener])
