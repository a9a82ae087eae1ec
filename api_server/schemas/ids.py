"""Ids of what is kept: a prefix that says what it is, and 24 letters that nobody guesses."""

import secrets
import string

ALPHABET = string.ascii_letters + string.digits
LENGTH = 24
MANY = len(ALPHABET) ** LENGTH


def new_id(prefix: str) -> str:
    """Such as `asst_8rY...`; the prefix is without its line."""
    number, letters = secrets.randbelow(MANY), []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return f"{prefix}_{''.join(letters)}"
