"""Writes content of unknown length to the object store, piece after piece.

Each piece is an object of its own: there is no unfinished multipart upload that nobody sees, and
what was written before a process died is in `loose_objects`.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from api_server.errors import ApiError, DependencyDownError
from api_server.schemas.ids import new_id
from api_server.services.files.bucket import Bucket
from api_server.stores.files import Piece
from api_server.stores.loose_objects import LooseObjects

PIECE_BYTES = 2 * 1024 * 1024
"""An upload holds two of them and copies on their way: with 8 MiB a gateway grew by 23 MiB, with 2
MiB by 6 (measured).
"""

LAST_PUT_SECONDS = 1.0
"""Is waited for a piece on its way when its content is given up."""

RENEWALS = 4
"""In the time after which what is loose is given up."""


@dataclass(frozen=True)
class Written:
    """Content that lies in the object store and belongs to nothing yet."""

    pieces: tuple[Piece, ...]
    size: int
    digest: bytes

    @property
    def names(self) -> list[str]:
        return [piece.name for piece in self.pieces]


@dataclass(frozen=True)
class Bound:
    """At most so many bytes; `error` makes what is raised for more."""

    size: int
    error: Callable[[], ApiError]


class PieceWriter:
    """One content. Holds two pieces at most: one that fills while the other is on its way.

    Whoever has one calls `finish`, or `give_up` after whatever went wrong.
    """

    def __init__(
        self,
        bucket: Bucket,
        loose: LooseObjects,
        app_id: str,
        *bounds: Bound,
        loose_seconds: float,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self.app_id = app_id
        self.size = 0
        self._bucket = bucket
        self._loose = loose
        self._bounds = bounds
        self._piece_bytes = piece_bytes
        self._renew_seconds = loose_seconds / RENEWALS
        self._renewed = time.monotonic()
        self._name = new_id("content")
        self._hash = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._filled = 0
        self._pieces: list[Piece] = []
        self._putting: asyncio.Task[Piece] | None = None

    async def write(self, chunk: bytes) -> None:
        """Take more of it; waits for the object store where that is behind.

        Raises the error of a bound, and `DependencyDownError`.
        """
        self.size += len(chunk)
        for bound in self._bounds:
            if self.size > bound.size:
                raise bound.error()
        self._hash.update(chunk)
        self._chunks.append(chunk)
        self._filled += len(chunk)
        if self._filled >= self._piece_bytes:
            await self._put_next()
        if time.monotonic() - self._renewed > self._renew_seconds:
            self._renewed = time.monotonic()
            await self._loose.renew([piece.name for piece in self._pieces])

    async def finish(self) -> Written:
        """Nothing more comes: write the rest."""
        if self._chunks:
            await self._put_next()
        await self._put_is_done()
        return Written(tuple(self._pieces), self.size, self._hash.digest())

    async def give_up(self) -> None:
        """Nobody wants it. A piece that may still be on its way is left to the sweep, until it is
        old: what is removed while it is written would come back.
        """
        if self._putting is not None:
            await asyncio.wait({self._putting}, timeout=LAST_PUT_SECONDS)
            self._putting.cancel()
            await asyncio.wait({self._putting})
            if not self._putting.cancelled() and self._putting.exception() is None:
                self._pieces.append(self._putting.result())
        try:
            await self._loose.doom([piece.name for piece in self._pieces])
        except DependencyDownError:
            return  # they are loose, and will be old

    async def _put_next(self) -> None:
        await self._put_is_done()
        content, self._chunks, self._filled = b"".join(self._chunks), [], 0
        name = f"{self._name}.{len(self._pieces)}"
        self._putting = asyncio.create_task(self._put(name, content))

    async def _put_is_done(self) -> None:
        if self._putting is not None:
            self._pieces.append(await self._putting)
            self._putting = None

    async def _put(self, name: str, content: bytes) -> Piece:
        await self._loose.announce(self.app_id, name)
        await self._bucket.put(name, content)
        return Piece(name, len(content))
