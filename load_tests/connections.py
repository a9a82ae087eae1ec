"""Connections to the gateway that are kept and used again, under gevent."""

import select
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gevent import socket, ssl

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 2.0
"""A connection unused for longer is not used again: the server may be about to close it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is. `base` is the path before `/v1`, empty or with a slash in front."""

    host: str
    port: int
    is_secret: bool
    base: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises `ValueError` for what is no URL of HTTP."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL such as http://127.0.0.1:8000")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no key belongs into the URL: set OPENAI_API_KEY")
        is_secret = parts.scheme == "https"
        port = parts.port or (443 if is_secret else 80)
        return cls(parts.hostname, port, is_secret, parts.path.rstrip("/").removesuffix("/v1"))


class Connections:
    """Those of one process; `close` ends the idle ones, the others belong to who took them."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[tuple[Any, float]] = []
        self._tls = ssl.create_default_context() if address.is_secret else None

    def take(self) -> Any:
        """One that is alive, or a new one. Raises `OSError`."""
        while self._idle:
            connection, since = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and not _has_ended(connection):
                return connection
            connection.close()
        where = (self._address.host, self._address.port)
        connection = socket.create_connection(where, timeout=CONNECT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            return self._tls.wrap_socket(connection, server_hostname=self._address.host)
        return connection

    def give(self, connection: Any) -> None:
        """A response was read to its end, and the next request may follow."""
        self._idle.append((connection, time.monotonic()))

    def close(self) -> None:
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()


def _has_ended(connection: Any) -> bool:
    """Nothing is due on an idle connection: what can be read is its end."""
    poll = _POLL()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _unpatched_poll() -> Any:
    """gevent's own would let others run, where only a glance is wanted."""
    from gevent import monkey  # noqa: PLC0415

    return monkey.get_original("select", "poll")


_POLL = _unpatched_poll()
