"""Chunks of files with their vectors, in Qdrant. Every call names the app, and sees no other's.

The collection is made with the first chunks where nobody has made it: a search in none finds
nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api_server.errors import ApiError, InternalError, ModelMisconfiguredError
from api_server.schemas.chunks import Attributes, Chunk, Filter, Hit, Point
from api_server.schemas.store_layout import Collection
from api_server.stores.chunk_filters import of_chunks, payload_of
from api_server.stores.qdrant import Qdrant, why_refused
from api_server.stores.vector_setup import collection_body, index_body

WRITE_SECONDS = 30.0
"""For what is written; a search gets `qdrant.BUDGET_SECONDS`."""

ATTRIBUTES_SECONDS = 5.0
"""A client waits, and a transaction of PostgreSQL, which must not be the first to give up: it would
be taken for the one that is away."""

MOST_POINTS = 128
"""In one request."""

PAGE = 512


class _Found(msgspec.Struct):
    id: str
    payload: Chunk
    score: float = 0.0


class _Searched(msgspec.Struct):
    points: list[_Found]


class _Page(msgspec.Struct):
    points: list[_Found]
    next_page_offset: str | None = None


class _Counted(msgspec.Struct):
    count: int


class _SearchAnswer(msgspec.Struct):
    result: _Searched


class _PageAnswer(msgspec.Struct):
    result: _Page


class _CountAnswer(msgspec.Struct):
    result: _Counted


_searches = msgspec.json.Decoder(_SearchAnswer)
_pages = msgspec.json.Decoder(_PageAnswer)
_counts = msgspec.json.Decoder(_CountAnswer)


class Vectors:
    """Every method raises `DependencyDownError` where Qdrant is away."""

    def __init__(self, qdrant: Qdrant, wanted: Collection) -> None:
        self._qdrant = qdrant
        self._wanted = wanted
        self._path = f"/collections/{wanted.name}"

    @property
    def qdrant(self) -> Qdrant:
        return self._qdrant

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put chunks in, those of the same id in the place of what was there.

        They can be found when this returns. Raises `ModelMisconfiguredError` for vectors of another
        size than the collection has; those before them may be in by then.
        """
        for begin in range(0, len(points), MOST_POINTS):
            body = {"points": [_as_point(each) for each in points[begin : begin + MOST_POINTS]]}
            status = await self._put(body)
            if status == 404:
                await self._make_collection(len(points[begin].vector))
                await self._put(body)

    async def search(
        self,
        app_id: str,
        vector_store_ids: Sequence[str],
        vector: Sequence[float],
        *,
        limit: int,
        score_threshold: float | None = None,
        by_attributes: Filter | None = None,
        without_generations: Sequence[str] = (),
    ) -> list[Hit]:
        """The nearest chunks, the best first."""
        body: dict[str, object] = {
            "query": vector,
            "limit": limit,
            "with_payload": True,
            "filter": of_chunks(
                app_id,
                vector_store_ids,
                by_attributes=by_attributes,
                without_generations=without_generations,
            ),
        }
        if score_threshold is not None:
            body["score_threshold"] = score_threshold
        answer = await self._qdrant.ask(
            "POST", f"{self._path}/points/query", body, besides={400, 404}
        )
        if answer.status == 404:
            return []
        if answer.status == 400:
            raise _refused(self._wanted.name, len(vector), why_refused(answer))
        found = _searches.decode(answer.body).result.points
        return [Hit(each.id, each.score, each.payload) for each in found]

    async def chunks_of(
        self, app_id: str, vector_store_id: str, file_id: str, generation: str
    ) -> list[Chunk]:
        """All chunks of one file, in their order."""
        wanted = of_chunks(app_id, [vector_store_id], file_id=file_id, generation=generation)
        chunks: list[Chunk] = []
        offset: str | None = None
        while True:
            body: dict[str, object] = {"filter": wanted, "limit": PAGE, "with_payload": True}
            if offset is not None:
                body["offset"] = offset
            answer = await self._qdrant.ask(
                "POST", f"{self._path}/points/scroll", body, besides={404}
            )
            if answer.status == 404:
                return []
            page = _pages.decode(answer.body).result
            chunks += [each.payload for each in page.points]
            offset = page.next_page_offset
            if offset is None:
                return sorted(chunks, key=lambda chunk: (chunk.n, chunk.start))

    async def set_attributes(
        self, app_id: str, vector_store_id: str, file_id: str, attributes: Attributes
    ) -> None:
        """Give all chunks of a file these attributes instead of theirs."""
        body = {
            "payload": payload_of(attributes),
            "filter": of_chunks(app_id, [vector_store_id], file_id=file_id),
        }
        await self._write("POST", "points/payload", body, budget_seconds=ATTRIBUTES_SECONDS)

    async def delete(
        self,
        app_id: str,
        vector_store_id: str,
        *,
        file_id: str | None = None,
        generation: str | None = None,
    ) -> None:
        """Remove the chunks of a store, of one of its files, or of one attempt at it."""
        wanted = of_chunks(app_id, [vector_store_id], file_id=file_id, generation=generation)
        await self._write("POST", "points/delete", {"filter": wanted})

    async def count(
        self,
        app_id: str,
        vector_store_id: str,
        *,
        file_id: str | None = None,
        generation: str | None = None,
    ) -> int:
        """How many chunks there are."""
        wanted = of_chunks(app_id, [vector_store_id], file_id=file_id, generation=generation)
        body = {"filter": wanted, "exact": True}
        answer = await self._qdrant.ask("POST", f"{self._path}/points/count", body, besides={404})
        return 0 if answer.status == 404 else _counts.decode(answer.body).result.count

    async def _put(self, body: Mapping[str, Any]) -> int:
        answer = await self._qdrant.ask(
            "PUT",
            f"{self._path}/points?wait=true",
            body,
            besides={400, 404},
            budget_seconds=WRITE_SECONDS,
        )
        if answer.status == 400:
            size = len(body["points"][0]["vector"])
            raise _refused(self._wanted.name, size, why_refused(answer))
        return answer.status

    async def _write(
        self,
        method: str,
        what: str,
        body: Mapping[str, object],
        budget_seconds: float = WRITE_SECONDS,
    ) -> None:
        """In a collection that is not there, there is nothing to change."""
        await self._qdrant.ask(
            method,
            f"{self._path}/{what}?wait=true",
            body,
            besides={404},
            budget_seconds=budget_seconds,
        )

    async def _make_collection(self, vector_size: int) -> None:
        """As it is wanted, with vectors of the size that there are. Others may do it as well."""
        wanted = self._wanted.model_copy(update={"vector_size": vector_size})
        await self._qdrant.ask(
            "PUT",
            self._path,
            collection_body(wanted),
            besides={400, 409},  # somebody was faster
            budget_seconds=WRITE_SECONDS,
        )
        for key in wanted.indexes:
            await self._qdrant.ask(
                "PUT",
                f"{self._path}/index?wait=true",
                index_body(wanted, key),
                budget_seconds=WRITE_SECONDS,
            )


def _as_point(point: Point) -> dict[str, object]:
    chunk = point.chunk
    payload = {name: getattr(chunk, name) for name in chunk.__struct_fields__}
    payload |= payload_of(chunk.attributes)
    return {"id": point.id, "vector": point.vector, "payload": payload}


def _refused(collection: str, size: int, why: str) -> ApiError:
    if "dimension" not in why:
        return InternalError(f"Qdrant refuses chunks or a search of ours ({why}).")
    return ModelMisconfiguredError(
        f"Qdrant's collection {collection} does not take vectors of {size} numbers, as the "
        f"embedding model makes them ({why}). Name a model of the size that the collection has in "
        "retrieval.embedding_model, or give the collection another name in init-scripts/qdrant/"
        "collections.yaml and add the files again."
    )
