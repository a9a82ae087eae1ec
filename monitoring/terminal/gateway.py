"""Asks a gateway for `/metrics` and `/health`: standard library, and bounds on everything."""

import http.client
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from monitoring.terminal.exposition import Exposition, ExpositionError, parse
from monitoring.terminal.figures import is_gateway
from monitoring.terminal.health import Health, read_health

MOST_BYTES = 16 * 1024 * 1024
_PIECE = 64 * 1024


class UnreachableError(Exception):
    """Nobody answers there, or not in time; says why."""


class NoGatewayError(Exception):
    """Somebody answers, but it is no gateway of this repository; says what came."""


@dataclass(frozen=True)
class Seen:
    """One look. `taken` is when the metrics came, in seconds of the monotonic clock."""

    taken: float
    exposition: Exposition
    health: Health | None


class GatewayClient:
    """One address, such as http://127.0.0.1:8000. Not for several threads."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        """Raises `ValueError` where the address is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self._is_secret = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port  # raises for a port that is none
        self._path = parts.path.rstrip("/")
        self._timeout = timeout_seconds

    def look(self) -> Seen:
        """A few times the time-out at most. Raises `UnreachableError`, `NoGatewayError`."""
        status, body = self._get("/metrics")
        taken = time.monotonic()
        if status != 200:
            raise NoGatewayError(f"/metrics is answered with {status}")
        try:
            exposition = parse(body.decode("utf-8", "replace"))
        except ExpositionError as exc:
            raise NoGatewayError(str(exc)) from exc
        if not is_gateway(exposition.series):
            raise NoGatewayError("its /metrics are not those of a gateway")
        try:
            status, body = self._get("/health")
        except UnreachableError:  # the figures are what matters
            return Seen(taken, exposition, None)
        return Seen(taken, exposition, read_health(body) if status == 200 else None)

    def _get(self, path: str) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._is_secret else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        deadline = time.monotonic() + self._timeout
        try:
            headers = {"accept": "*/*", "connection": "close", "user-agent": "llm-monitor"}
            connection.request("GET", self._path + path, headers=headers)
            answer = connection.getresponse()
            body = bytearray()
            while piece := answer.read1(_PIECE):
                body += piece
                if len(body) > MOST_BYTES:
                    raise NoGatewayError(f"{path} is larger than {MOST_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise UnreachableError(f"{path} does not end within {self._timeout:g} s")
            if answer.length:
                raise UnreachableError(f"{path} breaks off")
            return answer.status, bytes(body)
        except TimeoutError as exc:
            raise UnreachableError(f"no answer within {self._timeout:g} s") from exc
        except OSError as exc:
            raise UnreachableError(exc.strerror or str(exc) or type(exc).__name__) from exc
        except http.client.IncompleteRead as exc:
            raise UnreachableError(f"{path} breaks off") from exc
        except http.client.HTTPException as exc:
            raise NoGatewayError(f"{path} is not answered in HTTP ({type(exc).__name__})") from exc
        finally:
            connection.close()
