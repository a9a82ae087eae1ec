"""Tokens of end users: every way to forge one is a 401 that says what is wrong."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api_server.errors import DependencyDownError, InvalidKeyError, UnknownSignerError
from api_server.schemas.apps import Caller
from api_server.services.access.authentication import Authentication
from api_server.services.access.directory import Directory
from api_server.services.access.published_keys import ASK_AGAIN_SECONDS, PublishedKeys
from api_server.services.access.tokens import MOST_REMEMBERED, TokenRules, Tokens
from api_server.stores.apps import AppRow, Changes

SECRET = "a-secret-of-more-than-32-characters-for-tests"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


class Apps:
    """A source of apps that a test changes."""

    def __init__(self) -> None:
        self.rows = {
            "app_1": AppRow("app_1", "shop", "{}"),
            "app_2": AppRow("app_2", "other", "{}"),
        }
        self.change = 1

    async def last_change(self) -> int:
        return self.change

    async def changes_since(self, known: int | None) -> Changes:
        return Changes(self.change, list(self.rows.values()), [], is_whole=known is None)


@pytest.fixture
def apps() -> Apps:
    return Apps()


@pytest.fixture
async def directory(apps: Apps, tmp_path: Path) -> Directory:
    directory = Directory(apps, tmp_path / "apps.snapshot")
    await directory.refresh()
    return directory


def claims(**changed: Any) -> dict[str, Any]:
    default = {"exp": int(time.time()) + 60, "sub": "ada", "app": "shop"} | changed
    return {name: value for name, value in default.items() if value is not None}


def signed(
    key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **own: Any
) -> bytes:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**own), key, algorithm=algorithm, headers=headers).encode()


def with_short_key() -> bytes:
    """RSA with 1024 bits, which can be broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return signed(SHORT_RSA_KEY, "RS256", "short")


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: object, payload: object, key: bytes = SECRET.encode()) -> bytes:
    """A token with a right HMAC over whatever it says."""
    head = f"{part(header)}.{part(payload)}"
    return f"{head}.{part(hmac.digest(key, head.encode(), hashlib.sha256))}".encode()


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    kind = (
        jwt.algorithms.RSAAlgorithm
        if hasattr(key, "key_size") and not isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.ECAlgorithm
    )
    return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | more


class Provider:
    """The server that publishes keys; None: it is away."""

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.document: dict[str, Any] | None = {"keys": list(keys)}
        self.asked = 0

    async def fetch(self) -> Mapping[str, Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.document is None:
            raise OSError("away")
        return json.loads(json.dumps(self.document))  # type: ignore[no-any-return]


async def published(*keys: Mapping[str, Any]) -> PublishedKeys:
    keys_ = PublishedKeys(Provider(*keys).fetch)
    await keys_.refresh_for_unknown()
    return keys_


def refusal(tokens: Tokens, token: bytes) -> str:
    with pytest.raises(InvalidKeyError) as caught:
        tokens.caller_of(token)
    assert caught.value.status == 401
    assert caught.value.headers["www-authenticate"] == "Bearer"
    return caught.value.message


async def test_a_right_token_is_its_app_and_its_user(directory: Directory) -> None:
    tokens = Tokens(TokenRules(SECRET), directory)
    for app in ("shop", "app_1"):
        caller = tokens.caller_of(signed(app=app))
        assert (caller.app.id, caller.user) == ("app_1", "ada")
    assert tokens.caller_of(signed(sub=None)).user is None


async def test_jwt_app_stands_in_where_a_token_names_none(directory: Directory) -> None:
    assert "JWT_APP" in refusal(Tokens(TokenRules(SECRET), directory), signed(app=None))
    tokens = Tokens(TokenRules(SECRET, app="other"), directory)
    assert tokens.caller_of(signed(app=None)).app.name == "other"
    assert tokens.caller_of(signed()).app.name == "shop"


HS = {"alg": "HS256", "typ": "JWT"}
NOW = int(time.time())
GOOD = {"exp": NOW + 600, "sub": "ada", "app": "shop"}


@pytest.mark.parametrize(
    ("token", "fragment"),
    [
        (by_hand({"alg": "none"}, GOOD), "alg"),
        (by_hand({"alg": "None"}, GOOD), "alg"),
        (f"{part({'alg': 'none'})}.{part(GOOD)}.".encode(), "alg"),
        (by_hand({"typ": "JWT"}, GOOD), "alg"),
        (by_hand({"alg": ["HS256"]}, GOOD), "cannot be read"),
        (by_hand({"alg": "HS512"}, GOOD), "alg"),
        (by_hand({"alg": "RS256"}, GOOD), "alg"),
        (by_hand(HS, GOOD, b"another secret of more than 32 characters"), "signature"),
        (by_hand(HS, GOOD, b""), "signature"),
        (by_hand(HS, GOOD, PUBLIC_PEM), "signature"),
        (by_hand(HS, GOOD)[:-4] + b"AAAA", "signature"),
        (by_hand(HS, GOOD | {"exp": NOW - 60}), "expired"),
        (by_hand(HS, GOOD | {"exp": True}), "expired"),
        (by_hand(HS, {"sub": "ada", "app": "shop"}), "the claim 'exp'"),
        (by_hand(HS, GOOD | {"exp": None}), "the claim 'exp'"),
        (by_hand(HS, GOOD | {"exp": "soon"}), "cannot be read"),
        (by_hand(HS, b'{"exp": 1e999, "app": "shop"}'), "cannot be read"),
        (by_hand(HS, b'{"exp": NaN, "app": "shop"}'), "cannot be read"),
        (by_hand(HS, GOOD | {"nbf": NOW + 600}), "not valid yet"),
        (by_hand(HS, GOOD | {"iat": NOW + 600}), "not valid yet"),
        (by_hand(HS, GOOD | {"app": "nobody"}), "'nobody' does not exist"),
        (by_hand(HS, GOOD | {"app": "app_development"}), "does not exist"),
        (by_hand(HS, GOOD | {"app": 1}), "no name of an app"),
        (by_hand(HS, GOOD | {"app": ["shop"]}), "no name of an app"),
        (by_hand(HS, GOOD | {"app": ""}), "no name of an app"),
        (by_hand(HS, GOOD | {"sub": 7}), "sub"),
        (by_hand(HS, GOOD | {"sub": "a\nforged: line"}), "'sub'"),
        (by_hand(HS, GOOD | {"sub": "a" * 257}), "'sub'"),
        (by_hand(HS, [GOOD]), "cannot be read"),
        (by_hand(HS, b"not json"), "cannot be read"),
        (by_hand(HS, b"[" * 3000), "cannot be read"),
        (by_hand(HS | {"crit": ["b64"], "b64": False}, GOOD), ""),
        (by_hand(HS | {"jwk": {"kty": "oct", "k": "AAAA"}}, GOOD, b"\0\0\0"), "signature"),
        (by_hand(HS, GOOD | {"more": "a" * 8192}), "longer than"),
        (b"eyJ.eyJ.eyJ", "cannot be read"),
        (b"eyJ..", "cannot be read"),
        (b"eyJ\xff.\xff.\xff", "cannot be read"),
    ],
)
async def test_a_forged_token_is_401(directory: Directory, token: bytes, fragment: str) -> None:
    tokens = Tokens(TokenRules(SECRET), directory)
    assert fragment in refusal(tokens, token)
    assert fragment in refusal(tokens, token), "also when it is sent again"


async def test_a_huge_expiry_is_taken_as_never(directory: Directory) -> None:
    tokens = Tokens(TokenRules(SECRET), directory)
    assert tokens.caller_of(by_hand(HS, GOOD | {"exp": 10**400})).user == "ada"


async def test_issuer_and_audience_must_be_right_where_they_are_set(directory: Directory) -> None:
    tokens = Tokens(TokenRules(SECRET, issuer="https://id.test", audience="llm"), directory)
    right: dict[str, Any] = {"iss": "https://id.test", "aud": ["x", "llm"]}
    assert tokens.caller_of(signed(**right)).user == "ada"
    assert "audience" in refusal(tokens, signed(**right | {"aud": "x"}))
    assert "issuer" in refusal(tokens, signed(**right | {"iss": "https://id.test.evil"}))
    assert "'iss'" in refusal(tokens, signed(aud="llm"))
    assert "'aud'" in refusal(tokens, signed(iss="https://id.test"))


async def test_a_token_ends_when_it_expires_although_it_is_remembered(directory: Directory) -> None:
    now = time.time()
    clock = [now]
    tokens = Tokens(TokenRules(SECRET), directory, clock=lambda: clock[0])
    token = signed(exp=int(now) + 1)
    assert tokens.caller_of(token).user == "ada"
    clock[0] = now + 60
    assert "expired" in refusal(tokens, token)


async def test_a_revoked_apps_tokens_stop(directory: Directory, apps: Apps) -> None:
    tokens = Tokens(TokenRules(SECRET), directory)
    token = signed()
    assert tokens.caller_of(token).user == "ada"
    apps.rows["app_1"] = AppRow("app_1", "shop", "{}", is_revoked=True)
    apps.change += 1
    await directory.refresh()
    assert "revoked" in refusal(tokens, token)


async def test_what_is_remembered_is_bounded(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_REMEMBERED >= 1000
    monkeypatch.setattr("api_server.services.access.tokens.MOST_REMEMBERED", 3)
    tokens = Tokens(TokenRules(SECRET), directory)
    for number in range(20):
        tokens.caller_of(signed(sub=f"user {number}"))
    assert len(tokens._verified) == 3


async def test_published_keys_sign_with_their_own_algorithm_alone(directory: Directory) -> None:
    keys = await published(jwk(RSA_KEY, "r"), jwk(EC_KEY, "e"), jwk(SHORT_RSA_KEY, "short"))
    tokens = Tokens(TokenRules(SECRET), directory, keys)
    assert tokens.caller_of(signed(RSA_KEY, "RS256", "r")).user == "ada"
    assert tokens.caller_of(signed(EC_KEY, "ES256", "e")).user == "ada"
    assert tokens.caller_of(signed()).user == "ada", "HS256 with our own secret"
    assert "signature" in refusal(tokens, signed(OTHER_RSA_KEY, "RS256", "r"))
    assert "too short" in refusal(tokens, with_short_key())
    assert "alg" in refusal(tokens, signed(RSA_KEY, "RS512", "r"))
    assert "alg" in refusal(tokens, signed(RSA_KEY, "PS256", "r"))
    assert "signature" in refusal(tokens, by_hand(HS | {"kid": "r"}, GOOD, PUBLIC_PEM))
    with pytest.raises(UnknownSignerError):
        tokens.caller_of(signed(EC_KEY, "ES256", "r"))
    for kid in ("x", "../r", "r' or 1=1"):
        with pytest.raises(UnknownSignerError):
            tokens.caller_of(signed(RSA_KEY, "RS256", kid))


async def test_a_public_key_is_no_secret_where_only_published_keys_count(
    directory: Directory,
) -> None:
    tokens = Tokens(TokenRules(), directory, await published(jwk(RSA_KEY, "r")))
    assert "alg" in refusal(tokens, by_hand(HS | {"kid": "r"}, GOOD, PUBLIC_PEM))
    assert tokens.caller_of(signed(RSA_KEY, "RS256")).user == "ada", "the only one needs no name"


async def test_a_token_without_a_key_id_is_refused_where_several_keys_fit(
    directory: Directory,
) -> None:
    keys = await published(jwk(RSA_KEY, "r"), jwk(OTHER_RSA_KEY, "other"))
    tokens = Tokens(TokenRules(), directory, keys)
    with pytest.raises(UnknownSignerError):
        tokens.caller_of(signed(RSA_KEY, "RS256"))
    assert tokens.caller_of(signed(RSA_KEY, "RS256", "r")).user == "ada"


async def test_secret_and_unfit_keys_that_are_published_do_not_count(directory: Directory) -> None:
    oct_key = {"kty": "oct", "k": part(b"k" * 32), "kid": "o", "alg": "HS256"}
    wrong = [{"kty": "RSA", "n": "?", "e": "?", "kid": "w"}, "text", None, {"kty": 7}]
    keys = await published(oct_key, *wrong, jwk(EC_KEY, "enc", use="enc"), jwk(RSA_KEY, "r"))  # type: ignore[arg-type]
    tokens = Tokens(TokenRules(), directory, keys)
    assert "alg" in refusal(tokens, by_hand(HS | {"kid": "o"}, GOOD, b"k" * 32))
    with pytest.raises(UnknownSignerError):
        tokens.caller_of(signed(EC_KEY, "ES256", "enc"))
    assert tokens.caller_of(signed(RSA_KEY, "RS256", "r")).user == "ada"


async def test_an_unknown_key_is_asked_for_once_in_thirty_seconds(directory: Directory) -> None:
    clock = [0.0]
    provider = Provider(jwk(RSA_KEY, "old"))
    keys = PublishedKeys(provider.fetch, clock=lambda: clock[0])
    authentication = Authentication(directory, Tokens(TokenRules(), directory, keys))

    async def ask(kid: str) -> Caller:
        header = b"Bearer " + signed(RSA_KEY, "RS256", kid)
        try:
            return authentication.caller_of(header)
        except UnknownSignerError:
            return await authentication.fetched_caller_of(header)

    assert (await ask("old")).user == "ada"
    assert provider.asked == 1
    assert provider.document is not None
    provider.document["keys"].append(jwk(RSA_KEY, "new"))
    for _ in range(50):
        with pytest.raises(InvalidKeyError):
            await ask("new")
    assert provider.asked == 1
    clock[0] += ASK_AGAIN_SECONDS
    assert [each.user for each in await asyncio.gather(*(ask("new") for _ in range(20)))] == [
        "ada"
    ] * 20
    assert provider.asked == 2


async def test_an_outage_of_the_provider_keeps_its_keys_and_is_no_401(directory: Directory) -> None:
    clock = [0.0]
    provider = Provider(jwk(RSA_KEY, "old"))
    keys = PublishedKeys(provider.fetch, clock=lambda: clock[0])
    tokens = Tokens(TokenRules(), directory, keys)
    document, provider.document = provider.document, None
    await keys.refresh_for_unknown()
    with pytest.raises(DependencyDownError):
        tokens.caller_of(signed(RSA_KEY, "RS256", "old"))
    provider.document = document
    clock[0] += ASK_AGAIN_SECONDS
    await keys.refresh_for_unknown()
    token = signed(RSA_KEY, "RS256", "old")
    assert tokens.caller_of(token).user == "ada"
    provider.document = None
    clock[0] += ASK_AGAIN_SECONDS
    await keys.refresh_for_unknown()
    assert tokens.caller_of(token).user == "ada"
    assert tokens.caller_of(signed(RSA_KEY, "RS256", "old", sub="bob")).user == "bob"


async def test_a_key_that_is_published_no_more_counts_no_more(directory: Directory) -> None:
    clock = [0.0]
    provider = Provider(jwk(RSA_KEY, "old"), jwk(EC_KEY, "e"))
    keys = PublishedKeys(provider.fetch, clock=lambda: clock[0])
    await keys.refresh_for_unknown()
    tokens = Tokens(TokenRules(), directory, keys)
    token = signed(RSA_KEY, "RS256", "old")
    assert tokens.caller_of(token).user == "ada"
    provider.document = {"keys": [jwk(EC_KEY, "e")]}
    clock[0] += ASK_AGAIN_SECONDS
    await keys.refresh_for_unknown()
    with pytest.raises(UnknownSignerError):
        tokens.caller_of(token)
