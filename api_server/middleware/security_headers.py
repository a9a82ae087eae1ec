"""Headers that tell browsers to be careful. Pure, and of the same small cost for each answer."""

from collections.abc import Iterable

Headers = tuple[tuple[bytes, bytes], ...]

_ALWAYS: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_DATA: Headers = (
    *_ALWAYS,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_KEPT_BY_NOBODY: Headers = (*_DATA, (b"cache-control", b"no-store"))
_PAGES = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
"""These have scripts to run."""


def security_headers(path: str, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What to add to an answer. Errors and what an operator sees are kept by no cache."""
    if status < 400 and not path.startswith("/admin"):
        return _DATA if path not in _PAGES else _ALWAYS
    is_told = any(name == b"cache-control" for name, _ in headers)
    return _DATA if is_told else _KEPT_BY_NOBODY
