"""Who sends a job or asks for one: by app code, by key or by token."""

from dataclasses import dataclass
from typing import Protocol

from api_server.errors import (
    AppCodeError,
    InvalidKeyError,
    NotAllowedError,
    UnknownSignerError,
)
from api_server.schemas.apps import ANYONE, App, Caller, Policy

_NOTHING_SENT = (
    "No app code was sent: this needs app_code, the header X-App-Code, or a key as 'Authorization: "
    "Bearer ...'."
)


class FindsApps(Protocol):
    """Knows app codes. `services.access.directory.Directory` does."""

    def find_app_code(self, code: str) -> App | None:
        """The app of a code, None for nobody. Raises `DependencyDownError`."""

    def app(self, name_or_id: str) -> App | None:
        """The app of that id, None where it is revoked or built in. Raises likewise."""


class Authenticates(Protocol):
    """Knows keys and tokens. `services.access.authentication.Authentication` does."""

    def caller_of(self, authorization: bytes | None) -> Caller:
        """Raises `InvalidKeyError`, `DependencyDownError`; `UnknownSignerError` where only fetching
        keys could tell.
        """

    async def fetched_caller_of(self, authorization: bytes | None) -> Caller:
        """After fetching them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows: a code in its body or in `X-App-Code`, an `Authorization` header."""

    app_code: str | None = None
    authorization: str | None = None

    @property
    def are_empty(self) -> bool:
        return self.app_code is None and self.authorization is None


class Owners:
    """Tells who it is."""

    def __init__(self, apps: FindsApps, authentication: Authenticates) -> None:
        self._apps = apps
        self._authentication = authentication

    async def caller_of(self, shown: Credentials) -> Caller:
        """Raises `AppCodeError` (401) for nobody, `DependencyDownError` where nobody can tell.

        Where both a code and a key are shown, they must be of the same app.
        """
        by_code = self._by_code(shown.app_code) if shown.app_code is not None else None
        if by_code is not None and shown.authorization is None:
            return by_code
        sent = shown.authorization.encode("latin-1") if shown.authorization is not None else None
        try:
            caller = await self._holder(sent)
        except InvalidKeyError as exc:
            raise AppCodeError(exc.message if sent is not None else _NOTHING_SENT) from exc
        if by_code is not None and by_code.app.id != caller.app.id:
            raise NotAllowedError("The app code and the key are not of the same app.")
        return caller

    def owner_of(self, app_id: str) -> Caller:
        """The app that a job is of. One that is no more has no limits; its jobs end as such."""
        return Caller(self._apps.app(app_id) or App(app_id, app_id, Policy()))

    async def _holder(self, sent: bytes | None) -> Caller:
        try:
            return self._authentication.caller_of(sent)
        except UnknownSignerError:
            return await self._authentication.fetched_caller_of(sent)

    def _by_code(self, code: str) -> Caller:
        app = self._apps.find_app_code(code)
        if app is None:
            raise AppCodeError("This app code is not valid: it is wrong, or was revoked.")
        return Caller(app)


class OpenToAll:
    """AUTH=off: every code and every key is `ANYONE`'s. Both sides of `Owners`."""

    def find_app_code(self, code: str) -> App | None:  # noqa: ARG002
        return ANYONE.app

    def app(self, name_or_id: str) -> App | None:  # noqa: ARG002
        return ANYONE.app

    def caller_of(self, authorization: bytes | None) -> Caller:  # noqa: ARG002
        return ANYONE

    async def fetched_caller_of(self, authorization: bytes | None) -> Caller:  # noqa: ARG002
        return ANYONE
