"""Ids of what is kept: a prefix that says what it is, and 24 letters that nobody guesses."""

import secrets
import string

ALPHABET = string.ascii_letters + string.digits
LENGTH = 24


def new_id(prefix: str) -> str:
    """Such as `asst_8rY...`; the prefix is without its line."""
    return f"{prefix}_" + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
