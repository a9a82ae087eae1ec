"""Finds out who sends a request, before anything is done for it."""

from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from api_server.errors import UnknownSignerError
from api_server.observability.record import record_of
from api_server.schemas.apps import CALLER, Caller

HEALTH = ("/health", "/health/live", "/health/open", "/health/ready")
PAGES = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
PUBLIC = frozenset((*HEALTH, "/metrics", *PAGES))
"""What anybody may ask for."""


class Authentication(Protocol):
    """Who it is, by the header. Both raise `InvalidKeyError` or `DependencyDownError`."""

    def caller_of(self, authorization: bytes | None) -> Caller:
        """At once. Raises `UnknownSignerError` where only fetching keys could tell."""

    async def fetched_caller_of(self, authorization: bytes | None) -> Caller:
        """After fetching them."""


class Authenticated:
    """Puts the `Caller` into the scope, its names into the record. Stands inside the error edge.

    `families` are paths (`/admin`) that, with all below them, ask for a key of their own.
    """

    def __init__(self, app: ASGIApp, authentication: Authentication, *families: str) -> None:
        self._app = app
        self._authentication = authentication
        self._open = PUBLIC | set(families)
        self._open_below = tuple(f"{family}/" for family in families)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope["path"], scope["method"]):
            authorization = None
            for name, value in scope["headers"]:
                if name == b"authorization":
                    authorization = value
                    break
            try:
                caller = self._authentication.caller_of(authorization)
            except UnknownSignerError:
                caller = await self._authentication.fetched_caller_of(authorization)
            scope[CALLER] = caller
            record = record_of(scope)
            record.app_id, record.app, record.user = caller.app.id, caller.app.name, caller.user
        await self._app(scope, receive, send)

    def _is_open(self, path: str, method: str) -> bool:
        return path in self._open or method == "OPTIONS" or path.startswith(self._open_below)
