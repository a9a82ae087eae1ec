"""Plain text, source code, Markdown, JSON, CSV: as they stand, in whatever encoding."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from api_server.errors import UnreadableFileError
from api_server.extraction.output import too_long

BYTES_OF_A_CHARACTER = 4
"""The longest that a character can be here, for one byte of UTF-8 there: UTF-32."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"
MOST_CONTROLS = 0.01
"""Their share of what may still be text."""


def read(path: Path, most_bytes: int) -> Iterator[str]:
    """The text of a file in one part."""
    yield decoded(contents(path, most_bytes))


def contents(path: Path, most_bytes: int) -> bytes:
    """All bytes, unless they are more than could be so many of UTF-8."""
    bound = most_bytes * BYTES_OF_A_CHARACTER
    if path.stat().st_size > bound:
        raise too_long(most_bytes)
    return path.read_bytes()


def decoded(data: bytes, declared: str | None = None) -> str:
    """By the mark at its begin, else as UTF-8, else as is declared, else as Latin 1. Pure.

    Raises `UnreadableFileError` for what is not text.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as exc:
                raise UnreadableFileError(
                    "invalid_file", f"The file says that it is {encoding}, and is not."
                ) from exc
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls > MOST_CONTROLS * len(data):
        raise UnreadableFileError(
            "unsupported_file", "The file is neither text nor of a format that is read here."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _declared(data, declared) or data.decode("latin-1")


def _declared(data: bytes, encoding: str | None) -> str | None:
    """None where it is nothing that Python knows, or not true."""
    if encoding is None:
        return None
    try:
        return codecs.lookup(encoding).decode(data)[0] if _is_text(encoding) else None
    except (LookupError, UnicodeDecodeError):
        return None


def _is_text(encoding: str) -> bool:
    """Python has codecs that unpack archives as well."""
    return (
        encoding.lower()
        .replace("_", "-")
        .startswith(
            (
                "iso-8859",
                "windows-",
                "cp125",
                "koi8",
                "shift",
                "euc-",
                "gb",
                "big5",
                "us-ascii",
                "latin",
            )
        )
    )
