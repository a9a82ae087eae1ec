"""Asks a gateway for `/metrics` and `/health`: standard library, and bounds on everything."""

import http.client
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from monitoring.terminal.exposition import Exposition, ExpositionError, parse
from monitoring.terminal.figures import is_gateway
from monitoring.terminal.health import Health, read_health

MOST_BYTES = 16 * 1024 * 1024
HEALTH_SECONDS = 10.0
"""How often to ask for `/health`, for which the gateway asks its engines, and writes a log line."""

_HEALTH_TIMEOUT_SECONDS = 2.0
_PIECE = 64 * 1024


class UnreachableError(Exception):
    """Nobody answers there, or not in time; says why."""


class NoGatewayError(Exception):
    """Somebody answers, but it is no gateway of this repository; says what came."""


@dataclass(frozen=True)
class Seen:
    """One look. `taken` is when the metrics came, in seconds of the monotonic clock; `health` may
    be older by `HEALTH_SECONDS`; `at` is the gateway's own time, in seconds since 1970.
    """

    taken: float
    exposition: Exposition
    health: Health | None
    url: str = ""
    at: float = 0.0


class GatewayClient:
    """One address, such as http://127.0.0.1:8000. Not for several threads."""

    def __init__(self, url: str, timeout_seconds: float = 5.0) -> None:
        """Raises `ValueError` where the address is none."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8000")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no password belongs into the address, which reports show")
        self.url = url.rstrip("/")
        if not re.fullmatch("[!-~]*", parts.path):
            raise ValueError(f"{url!r} has a path that no request can have: {parts.path!r}")
        parts.hostname.encode("idna")  # raises for a name that none can have
        self._is_secret = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port  # raises for a port that is none
        self._path = parts.path.rstrip("/")
        self._timeout = timeout_seconds
        self._health: Health | None = None
        self._health_asked = float("-inf")
        self._at = 0.0

    def look(self) -> Seen:
        """A few times the time-out at most. Raises `UnreachableError`, `NoGatewayError`."""
        try:
            exposition = self._metrics()
        except (UnreachableError, NoGatewayError):
            self._health_asked = float("-inf")  # whoever comes back may be another
            raise
        taken = time.monotonic()
        if taken - self._health_asked >= HEALTH_SECONDS:
            self._health_asked = taken
            self._health = self._ask_health()
        return Seen(taken, exposition, self._health, self.url, self._at)

    def _metrics(self) -> Exposition:
        status, body = self._get("/metrics", self._timeout)
        if status != 200:
            raise NoGatewayError(f"/metrics is answered with {status}")
        try:
            exposition = parse(body.decode("utf-8", "replace"))
        except ExpositionError as exc:
            raise NoGatewayError(str(exc)) from exc
        if not is_gateway(exposition.series):
            raise NoGatewayError("its /metrics are not those of a gateway")
        return exposition

    def _ask_health(self) -> Health | None:
        """None where it does not come: the figures are what matters."""
        try:
            status, body = self._get("/health", min(_HEALTH_TIMEOUT_SECONDS, self._timeout))
        except (UnreachableError, NoGatewayError):
            return None
        return read_health(body) if status == 200 else None

    def _get(self, path: str, timeout: float) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._is_secret else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout)
        deadline = time.monotonic() + timeout
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
                    raise UnreachableError(f"{path} does not end within {timeout:g} s")
            if answer.length:
                raise UnreachableError(f"{path} breaks off")
            self._at = _at(answer.headers.get("date"))
            return answer.status, bytes(body)
        except TimeoutError as exc:
            raise UnreachableError(f"no answer within {timeout:g} s") from exc
        except OSError as exc:
            raise UnreachableError(exc.strerror or str(exc) or type(exc).__name__) from exc
        except http.client.IncompleteRead as exc:
            raise UnreachableError(f"{path} breaks off") from exc
        except http.client.HTTPException as exc:
            raise NoGatewayError(f"{path} is not answered in HTTP ({type(exc).__name__})") from exc
        finally:
            connection.close()


def _at(date: str | None) -> float:
    """By the clock of who answers; by ours where that says none."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return time.time()
