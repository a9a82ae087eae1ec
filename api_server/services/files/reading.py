"""Reads content from the object store: never more of it in memory than `READ_BYTES`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from api_server.services.files.bucket import Bucket
from api_server.stores.files import Piece

READ_BYTES = 1024 * 1024
"""A read is a request of its own: a client that reads slowly holds no connection."""


class Read(NamedTuple):
    """Bytes of one object."""

    name: str
    offset: int
    length: int


def reads(pieces: Sequence[Piece], start: int, end: int) -> Iterator[Read]:
    """What to read for the bytes from `start` up to `end`, without that one. Pure."""
    begins = 0
    for piece in pieces:
        low, high = max(start - begins, 0), min(end - begins, piece.size)
        for offset in range(low, high, READ_BYTES):
            yield Read(piece.name, offset, min(READ_BYTES, high - offset))
        begins += piece.size


async def content_of(
    bucket: Bucket, pieces: Sequence[Piece], start: int, end: int
) -> AsyncIterator[bytes]:
    """The bytes. Raises `DependencyDownError` and `ObjectMissingError`."""
    for read in reads(pieces, start, end):
        yield await bucket.get(*read)
