"""One text on its way into the vector database: several batches of chunks are under way at once.

While the vectors of one batch are written, the engine is at work on others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from api_server.errors import ContextLengthError
from api_server.schemas.chunks import Point
from api_server.services.retrieval.chunking import Piece, Strategy, halves, pieces
from api_server.services.retrieval.embedding import Batches, Vector

NOTE_SECONDS = 2.0
"""How often it is written down how far we are."""

UPSERT_SECONDS = 40.0
"""What was begun comes to its end, even where the file is not wanted any more: a request that is
still on its way would come after the removal.
"""

T = TypeVar("T")
Numbered = tuple[int, Piece]


class Embeds(Protocol):
    """`services.retrieval.embedding.Asking`."""

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text. Raises `ContextLengthError` for texts that are too long."""


Upsert = Callable[[Sequence[Point]], Awaitable[None]]
MakePoint = Callable[[int, int, Piece, Vector], Point]
"""Of the number of a chunk, the number of the part of it, where it is, its vector."""

Note = Callable[[int], Awaitable[None]]
"""Writes down that so many chunks are kept, from the first on."""


class Pouring:
    """`kept` chunks of the text were kept before. `bytes` is what the texts of all have. `is_whole`
    is False after a `stop` that left something to do; `cut` chunks were too long for the engine.
    """

    def __init__(
        self,
        text: str,
        strategy: Strategy,
        kept: int,
        *,
        embeds: Embeds,
        upsert: Upsert,
        make_point: MakePoint,
        note: Note,
    ) -> None:
        self.chunks = 0
        self.bytes = 0
        self.is_whole = True
        self.cut = 0
        self._text = text
        self._embeds = embeds
        self._upsert = upsert
        self._make_point = make_point
        self._note = note
        self._noted = self._reached = kept
        self._noted_at = time.monotonic()
        self._done: set[int] = set()
        self._left = self._numbered(strategy, kept)

    async def run(self, batches: Batches) -> None:
        """To its end. Raises what the engine or the vector database raises, and the first of it."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(batches.at_once):
                    group.create_task(self._work(batches.size))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
        finally:
            if self._reached > self._noted:
                await self._note(self._reached)

    def stop(self) -> None:
        """Begin nothing more; what is under way comes to its end."""
        self.is_whole = next(self._left, None) is None
        self._left = iter(())

    async def _work(self, size: int) -> None:
        while batch := list(islice(self._left, size)):
            found = await self._embedded(batch)
            points = [self._make_point(*each) for each in found]
            await _to_its_end(asyncio.ensure_future(self._upsert(points)))
            await self._reach({number for number, _ in batch})

    def _numbered(self, strategy: Strategy, kept: int) -> Iterator[Numbered]:
        for number, piece in enumerate(pieces(self._text, strategy)):
            self.chunks = number + 1
            self.bytes += len(self._text[piece.start : piece.end].encode("utf-8", "replace"))
            if number >= kept:
                yield number, piece

    async def _embedded(self, batch: Sequence[Numbered]) -> list[tuple[int, int, Piece, Vector]]:
        """With a vector for each chunk, or for each part of one that the engine finds too long."""
        try:
            vectors = await self._embeds.vectors([self._cut(piece) for _, piece in batch])
        except ContextLengthError:
            found = []
            for number, piece in batch:
                parts = await self._in_parts(piece, is_known_too_long=len(batch) == 1)
                found += [(number, part, *each) for part, each in enumerate(parts)]
                self.cut += len(parts) > 1
            return found
        return [
            (number, 0, piece, vector)
            for (number, piece), vector in zip(batch, vectors, strict=True)
        ]

    async def _in_parts(
        self, piece: Piece, *, is_known_too_long: bool = False
    ) -> list[tuple[Piece, Vector]]:
        if not is_known_too_long:
            try:
                (vector,) = await self._embeds.vectors([self._cut(piece)])
            except ContextLengthError:
                pass
            else:
                return [(piece, vector)]
        parts = halves(self._text, piece)
        if len(parts) == 1:
            parts = _cut_in_the_middle(piece)
        return [each for part in parts for each in await self._in_parts(part)]

    async def _reach(self, numbers: set[int]) -> None:
        self._done |= numbers
        while self._reached in self._done:
            self._done.remove(self._reached)
            self._reached += 1
        now = time.monotonic()
        if now - self._noted_at >= NOTE_SECONDS and self._reached > self._noted:
            self._noted_at, self._noted = now, self._reached
            await self._note(self._reached)

    def _cut(self, piece: Piece) -> str:
        return self._text[piece.start : piece.end]


def _cut_in_the_middle(piece: Piece) -> list[Piece]:
    middle = (piece.start + piece.end) // 2
    if middle == piece.start:  # one character, and too long: there is nothing to do about it
        raise ContextLengthError(None, None)
    return [Piece(piece.start, middle), Piece(middle, piece.end)]


async def _to_its_end(task: "asyncio.Future[T]") -> T:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=UPSERT_SECONDS)
        raise
