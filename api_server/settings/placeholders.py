"""Knows secrets that are none: what stands in examples, and what people type to have it done."""

import re

_WORDS = (
    "changeme|changethis|change|this|your|yours|my|the|an|to|here|put|insert|replace|set|with|"
    "secrets|secret|secure|password|passwd|pass|pw|placeholder|example|sample|default|dummy|"
    "testing|test|demo|todo|fixme|foo|bar|baz|hello|me|a|x|of|and|is|super|very|some|characters|"
    "chars|bytes|hex|"
    "admin|root|user|operator|postgresql|postgres|redis|jwt|stack|llm|server|gateway|apps|app|"
    "api|keys|key|token|code|hash|value|string|random|long|real|strong|"
    "abcdef|abcd|abc|qwerty|letmein|welcome|sk|live|production|development|prod|dev|local"
)
_ONLY_WORDS = re.compile(f"(?:{_WORDS}|(?>[0-9]+))+")
_FEWEST_DIFFERENT = 4


def is_placeholder(secret: str) -> bool:
    """Whether a secret is one that anybody would try first. Pure.

    Made of words of examples and numbers alone (`changeme`, `your-api-key-here`, `abc123hash`),
    of a few characters again and again (`sk-xxxx`), or an ascending row of them.
    """
    plain = re.sub(r"[^a-z0-9]", "", secret.lower().removeprefix("sk-"))
    if len(set(plain)) < _FEWEST_DIFFERENT:
        return True
    if plain in _ROWS or any(plain == _repeated(row, len(plain)) for row in _ROWS):
        return True
    return _ONLY_WORDS.fullmatch(plain) is not None


_ROWS = ("0123456789", "1234567890", "0123456789abcdef", "abcdefghijklmnopqrstuvwxyz", "deadbeef")


def _repeated(row: str, length: int) -> str:
    return (row * (length // len(row) + 1))[:length]
