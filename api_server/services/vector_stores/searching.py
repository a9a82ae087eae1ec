"""Searches vector stores: a question to a vector, the nearest chunks of those that still count."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from api_server.errors import NotFoundError
from api_server.schemas.apps import Caller
from api_server.schemas.chunks import Attribute, Chunk, Filter, Hit
from api_server.services.retrieval.embedding import ROUTE
from api_server.services.vector_stores.adding import expired_error
from api_server.services.vector_stores.questions import Questions
from api_server.stores.vector_store_files import Taken, VectorStoreFileStore
from api_server.stores.vector_stores import VectorStoreStore
from api_server.stores.vectors import Vectors

ROUNDS = 4
"""So often a search is made, each time for twice as many and without chunks that do not count."""

_ATTRIBUTES = msgspec.json.Decoder(dict[str, str | float | bool])


@dataclass(frozen=True, slots=True)
class Wish:
    """What is searched for, in which vector stores."""

    questions: Sequence[str]
    vector_store_ids: Sequence[str]
    limit: int
    score_threshold: float = 0.0
    by_attributes: Filter | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A chunk that was found; the score is from 0 to 1."""

    chunk: Chunk
    score: float
    attributes: dict[str, Attribute]


class Searching:
    """For the route and for runs."""

    def __init__(
        self,
        stores: VectorStoreStore,
        files: VectorStoreFileStore,
        vectors: Vectors,
        questions: Questions,
    ) -> None:
        self._stores = stores
        self._files = files
        self._vectors = vectors
        self._questions = questions

    async def search(self, caller: Caller, wish: Wish, *, route: str = ROUTE) -> list[Source]:
        """The best first; the questions count under `route`, in metrics and the ledger.

        Raises `NotFoundError` for a vector store that the app does not have, `InvalidRequestError`
        for one that has expired, and what the embedding model's lane does.
        """
        states = await self._stores.states(caller.app.id, wish.vector_store_ids)
        for id_ in wish.vector_store_ids:
            if id_ not in states:
                raise NotFoundError.of("vector store", id_)
            if states[id_]:
                raise expired_error(id_)
        vectors = await self._questions.vectors(caller, wish.questions, route)
        found = await asyncio.gather(
            *(self._nearest(caller.app.id, wish, each) for each in vectors)
        )
        await self._stores.touch(caller.app.id, wish.vector_store_ids)
        return best_of([source for sources in found for source in sources], wish.limit)

    async def _nearest(self, app_id: str, wish: Wish, vector: Sequence[float]) -> list[Source]:
        """Without chunks of a generation that is stale, or not complete yet."""
        unwanted: list[str] = []
        kept: list[Source] = []
        for doublings in range(ROUNDS):
            hits = await self._vectors.search(
                *(app_id, wish.vector_store_ids, vector),
                limit=wish.limit << doublings,
                score_threshold=wish.score_threshold or None,
                by_attributes=wish.by_attributes,
                without_generations=unwanted,
            )
            current = await self._files.current(app_id, {_taken(hit) for hit in hits})
            kept = sources_of(hits, current)[: wish.limit]
            stale = {hit.chunk.generation for hit in hits if _taken(hit) not in current}
            if not stale or len(kept) == wish.limit:
                break
            unwanted += sorted(stale)
        return kept


def sources_of(hits: Sequence[Hit], current: dict[Taken, str]) -> list[Source]:
    """Hits in files as they are now. Pure."""
    return [
        Source(
            hit.chunk,
            min(1.0, max(0.0, hit.score)),
            _ATTRIBUTES.decode(current[_taken(hit)]),
        )
        for hit in hits
        if _taken(hit) in current
    ]


def best_of(found: Sequence[Source], limit: int) -> list[Source]:
    """Each chunk once, with its best score. Pure."""
    best: dict[tuple[str, str, int, int], Source] = {}
    for each in found:
        chunk = each.chunk  # one that was too long for the engine is there in parts
        key = (chunk.vector_store_id, chunk.file_id, chunk.n, chunk.start)
        if key not in best or best[key].score < each.score:
            best[key] = each
    return sorted(best.values(), key=lambda each: -each.score)[:limit]


def _taken(hit: Hit) -> Taken:
    return hit.chunk.vector_store_id, hit.chunk.file_id, hit.chunk.generation
