"""Tokens of end users (JWT): signed by somebody we trust, each for one of our apps.

Which algorithms count is ours to say, not the token's: HS256 with our secret, RS256 and ES256 with
the published keys, and no key is ever tried with an algorithm of the other kind.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import InvalidSubjectError

from api_server.errors import InvalidKeyError
from api_server.schemas.apps import App, Caller
from api_server.services.access.directory import Directory
from api_server.services.access.published_keys import PublishedKeys
from api_server.services.access.secrets import digest_of

MOST_TOKEN_BYTES = 8192
MOST_USER_CHARACTERS = 256
MOST_REMEMBERED = 10_000
SKEW_SECONDS = 5.0
"""Clocks of two machines may differ by so much."""

LATEST = 2**40
"""Beyond any time that matters, in Unix seconds; larger numbers may not be computed with."""

_DECODER = jwt.PyJWT()


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say. `app` is whose it is where it names none (JWT_APP)."""

    secret: str | None = None
    issuer: str | None = None
    audience: str | None = None
    app: str | None = None


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a token that was verified says; `until` in Unix seconds."""

    app: str
    user: str | None
    until: float
    keys_version: int


class Tokens:
    """Verifies each token once and remembers it by its digest until it expires."""

    def __init__(
        self,
        rules: TokenRules,
        directory: Directory,
        published: PublishedKeys | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._directory = directory
        self.published = published
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    @property
    def are_accepted(self) -> bool:
        """Whether any token could be right."""
        return self._rules.secret is not None or self.published is not None

    def caller_of(self, token: bytes) -> Caller:
        """Whom it stands for. Raises `InvalidKeyError` with a sentence that says what is wrong.

        `UnknownSignerError` where its key may be among the published ones when they are fetched
        anew. The app is looked up each time, so that a revoked one is out at once.
        """
        digest = digest_of(token)
        known = self._verified.get(digest)
        version = self.published.version if self.published is not None else 0
        if known is None or known.keys_version != version:
            known = self._verify(token, version)
            self._verified[digest] = known
            if len(self._verified) > MOST_REMEMBERED:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(digest)
        if known.until <= self._clock():
            del self._verified[digest]
            raise _refused("it has expired")
        return Caller(self._app(known.app), known.user)

    def _app(self, name: str) -> App:
        app = self._directory.app(name)
        if app is None:
            raise _refused(f"its app {name[:64]!r} does not exist or is revoked")
        return app

    def _verify(self, token: bytes, version: int) -> _Verified:
        if len(token) > MOST_TOKEN_BYTES:
            raise _refused(f"it is longer than {MOST_TOKEN_BYTES} bytes")
        claims = self._claims(token)
        app = claims.get("app", self._rules.app)
        if app is None:
            raise _refused(
                "it does not say for which app: it needs the claim 'app' with an app's name or "
                "id, or the gateway needs JWT_APP"
            )
        if not isinstance(app, str) or not app:
            raise _refused("its claim 'app' is no name of an app")
        user = claims.get("sub")
        if user is not None and not _is_user(user):
            raise _refused(
                f"its claim 'sub' must be a text of 1 to {MOST_USER_CHARACTERS} characters that "
                "can be printed"
            )
        return _Verified(app, user, min(int(claims["exp"]), LATEST) + SKEW_SECONDS, version)

    def _claims(self, token: bytes) -> Mapping[str, Any]:
        """The claims of a token with a right signature. Everything that is wrong is a 401."""
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = self._key(header)
            required = ["exp"]
            required += ["iss"] if self._rules.issuer is not None else []
            required += ["aud"] if self._rules.audience is not None else []
            return _DECODER.decode(
                token,
                key=key,
                algorithms=[algorithm],
                issuer=self._rules.issuer,
                audience=self._rules.audience,
                leeway=SKEW_SECONDS,
                options={
                    "require": required,
                    "verify_aud": self._rules.audience is not None,
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.PyJWTError as exc:
            raise _refused(_reason(exc)) from exc
        except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as exc:
            raise _refused("it cannot be read") from exc

    def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        """The key for a token, and the one algorithm that goes with it."""
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._rules.secret is not None:
            return self._rules.secret, "HS256"
        if algorithm in {"RS256", "ES256"} and self.published is not None:
            return self.published.key(header.get("kid"), algorithm)
        raise jwt.InvalidAlgorithmError


def looks_like_token(secret: bytes) -> bool:
    """Whether it is a JWT by its looks: three parts, the first of which begins with `{"`."""
    return secret.startswith(b"eyJ") and secret.count(b".") == 2


def _is_user(user: object) -> bool:
    return isinstance(user, str) and 0 < len(user) <= MOST_USER_CHARACTERS and user.isprintable()


def _refused(reason: str) -> InvalidKeyError:
    return InvalidKeyError(f"This token is not accepted: {reason}.")


def _reason(error: jwt.PyJWTError) -> str:
    for kind, sentence in _REASONS:
        if isinstance(error, kind):
            return sentence
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it needs the claim {error.claim!r}"
    return "it cannot be read"


_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidAudienceError, "it is meant for another audience (aud)"),
    (jwt.InvalidIssuerError, "it comes from another issuer (iss)"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
    (jwt.InvalidKeyError, "its key is too short, or does not go with its algorithm"),
    (InvalidSubjectError, "its claim 'sub' is no text"),
    (jwt.InvalidAlgorithmError, "it is signed in a way that does not count here (alg)"),
)
