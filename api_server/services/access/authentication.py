"""Says who sends a request, by its `Authorization` header alone. Synchronous and in memory."""

import hmac

from api_server.errors import InvalidKeyError
from api_server.schemas.apps import ANYONE, App, Caller, Policy
from api_server.services.access.directory import Directory
from api_server.services.access.secrets import digest_of
from api_server.services.access.tokens import Tokens, looks_like_token

DEVELOPMENT = Caller(App("app_development", "development", Policy()))
"""The caller with the development key: no limits, every request type."""

_SCHEME = b"bearer "
_MISSING = (
    "No key was sent: this needs the header 'Authorization: Bearer ' and a key of an app "
    "(sk-...){or_token}."
)


class Authentication:
    """One object for all requests. `tokens` None: no JWT is accepted.

    `development_key` is given in development only.
    """

    def __init__(
        self,
        directory: Directory,
        tokens: Tokens | None = None,
        *,
        development_key: str | None = None,
    ) -> None:
        self._directory = directory
        self._tokens = tokens if tokens is not None and tokens.are_accepted else None
        self._development = digest_of(development_key) if development_key else None

    def caller_of(self, authorization: bytes | None) -> Caller:
        """Raises `InvalidKeyError` (401), `DependencyDownError` (503) where nobody can tell.

        `UnknownSignerError` is a 401 that may be none when `fetched_caller_of` is asked.
        """
        if authorization is None or authorization[:7].lower() != _SCHEME:
            raise InvalidKeyError(_MISSING.format(or_token=self._or_token))
        secret = authorization[7:].strip()
        found = self._directory.known(secret)
        if found is not None:
            return found.caller
        return self._other_caller(secret)

    async def fetched_caller_of(self, authorization: bytes | None) -> Caller:
        """The same after the published keys were fetched anew, which may take seconds."""
        if self._tokens is not None and self._tokens.published is not None:
            await self._tokens.published.refresh_for_unknown()
        return self.caller_of(authorization)

    def _other_caller(self, secret: bytes) -> Caller:
        """Of what is no key that we know."""
        if self._development is not None and hmac.compare_digest(
            digest_of(secret), self._development
        ):
            return DEVELOPMENT
        if self._tokens is not None and looks_like_token(secret):
            return self._tokens.caller_of(secret)
        if not secret:
            raise InvalidKeyError(_MISSING.format(or_token=self._or_token))
        self._directory.check_is_known()
        raise InvalidKeyError("This key is not valid: it is wrong, revoked or has expired.")

    @property
    def _or_token(self) -> str:
        return " or a token (JWT)" if self._tokens is not None else ""


class NoAuthentication:
    """AUTH=off: everybody is `ANYONE`."""

    def caller_of(self, authorization: bytes | None) -> Caller:  # noqa: ARG002
        return ANYONE

    async def fetched_caller_of(self, authorization: bytes | None) -> Caller:  # noqa: ARG002
        return ANYONE
