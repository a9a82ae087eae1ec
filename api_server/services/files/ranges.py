"""Which part of a file is asked for: `Range`, `If-None-Match`, `If-Range`. Pure."""

import re

from api_server.errors import RangeNotSatisfiableError

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """From where up to where, without that byte; None: all of it.

    What is no range, or several of them, means all of it. Raises `RangeNotSatisfiableError` for one
    that the file does not have.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiableError(
            f"The file has {size} bytes; there is nothing in this range.",
            headers={"content-range": f"bytes */{size}"},
        )
    return start, end


def names_it(header: str | None, etag: str) -> bool:
    """Whether a list of entity tags has this one."""
    if header is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in tags or etag in tags
