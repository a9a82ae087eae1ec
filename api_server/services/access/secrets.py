"""Keys and app codes: how they are made, and what is kept of them."""

import hashlib
import secrets

from api_server.stores.apps import Kind, NewCredential

KEY_PREFIX = "sk-"
CODE_PREFIX = "app-"
DIGEST_PREFIX = "sha256:"
"""An app code in a file may stand there as this and the 64 digits of its digest."""

_SHOWN_OF_SHORT = 12


def new_secret(kind: Kind) -> str:
    """A secret with 256 random bits."""
    prefix = KEY_PREFIX if kind == "key" else CODE_PREFIX
    return prefix + secrets.token_urlsafe(32)


def digest_of(secret: str | bytes) -> bytes:
    """SHA-256: what is kept of a secret, and what it is found by."""
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    return hashlib.sha256(raw).digest()


def hint_of(secret: str) -> str:
    """`sk-Ab3...x9Zq`: enough to tell keys apart, and nothing to guess them by."""
    if len(secret) < 2 * _SHOWN_OF_SHORT:
        return f"{secret[:3]}..."
    return f"{secret[:6]}...{secret[-4:]}"


def credential(secret: str, kind: Kind) -> NewCredential:
    """What is kept of a secret."""
    return NewCredential(new_id("cred"), kind, digest_of(secret), hint_of(secret))


def new_id(prefix: str) -> str:
    """An id that nobody else has."""
    return f"{prefix}_{secrets.token_hex(12)}"
