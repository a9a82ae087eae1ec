"""Chunks in Qdrant: the same against our vector server and, with QDRANT_URL, the real one."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from api_server.errors import (
    DependencyDownError,
    InvalidRequestError,
    ModelMisconfiguredError,
)
from api_server.schemas.chunks import Chunk, Comparison, Compound, Filter, Point
from api_server.settings.store_layout import load_collections
from api_server.stores.qdrant import Qdrant
from api_server.stores.vectors import Vectors
from tests.qdrant import QdrantServer, running_vector_server

LAYOUT = load_collections().chunks
EAST, NORTH, NORTH_EAST = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.7, 0.7, 0.0, 0.0]


def opened(server: QdrantServer) -> Vectors:
    name = f"test-{secrets.token_hex(6)}"
    return Vectors(Qdrant(server.url, server.api_key), LAYOUT.model_copy(update={"name": name}))


@pytest.fixture
async def vectors(qdrant_server: QdrantServer) -> AsyncIterator[Vectors]:
    made = opened(qdrant_server)
    yield made
    qdrant_server.ask("DELETE", made._path)
    await made.qdrant.aclose()


def point(
    vector: list[float],
    n: int = 0,
    *,
    app: str = "a",
    store: str = "vs_1",
    file: str = "file-1",
    generation: str = "g1",
    attributes: Mapping[str, str | float | bool] | None = None,
) -> Point:
    told = Chunk(app, store, file, generation, n, f"text {n}", n, n + 1, "a.txt")
    chunk = Chunk(
        *(told.app_id, told.vector_store_id, told.file_id, told.generation, told.n, told.text),
        *(told.start, told.end, told.filename, dict(attributes or {})),
    )
    return Point(str(uuid.uuid4()), vector, chunk)


async def found(vectors: Vectors, wanted: Filter | None = None) -> set[int]:
    hits = await vectors.search("a", ["vs_1"], EAST, limit=50, by_attributes=wanted)
    return {hit.chunk.n for hit in hits}


async def test_the_nearest_come_first(vectors: Vectors) -> None:
    assert await vectors.search("a", ["vs_1"], EAST, limit=5) == []
    assert await vectors.count("a", "vs_1") == 0
    assert await vectors.chunks_of("a", "vs_1", "file-1", "g1") == []
    await vectors.delete("a", "vs_1")
    points = [point(NORTH, 0), point(EAST, 1), point(NORTH_EAST, 2)]
    await vectors.upsert(points)
    hits = await vectors.search("a", ["vs_1"], EAST, limit=5)
    assert [hit.chunk.n for hit in hits] == [1, 2, 0]
    assert hits[0].chunk == points[1].chunk
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert hits[0].id == points[1].id
    assert len(await vectors.search("a", ["vs_1"], EAST, limit=1)) == 1
    near = await vectors.search("a", ["vs_1"], EAST, limit=5, score_threshold=0.5)
    assert [hit.chunk.n for hit in near] == [1, 2]


async def test_apps_and_stores_do_not_see_each_other(vectors: Vectors) -> None:
    await vectors.upsert(
        [point(EAST, 0), point(EAST, 1, app="b"), point(EAST, 2, store="vs_2"), point(EAST, 3)]
    )
    assert await found(vectors) == {0, 3}
    both = await vectors.search("a", ["vs_1", "vs_2"], EAST, limit=9)
    assert {hit.chunk.n for hit in both} == {0, 2, 3}
    assert await vectors.search("a", [], EAST, limit=9) == []
    await vectors.delete("b", "vs_2")
    await vectors.set_attributes("b", "vs_2", "file-1", {"of": "b"})
    await vectors.delete("a", "vs_1")
    assert await vectors.count("b", "vs_1") == 1
    assert await vectors.count("a", "vs_2") == 1
    (hit,) = await vectors.search("a", ["vs_2"], EAST, limit=9)
    assert hit.chunk.attributes == {}


async def test_generations_are_told_apart(vectors: Vectors) -> None:
    await vectors.upsert([point(EAST, 0, generation="old"), point(EAST, 1, generation="new")])
    hits = await vectors.search("a", ["vs_1"], EAST, limit=9, without_generations=["old"])
    assert [hit.chunk.n for hit in hits] == [1]
    assert [each.n for each in await vectors.chunks_of("a", "vs_1", "file-1", "old")] == [0]
    await vectors.delete("a", "vs_1", file_id="file-1", generation="old")
    assert await found(vectors) == {1}
    assert await vectors.count("a", "vs_1", file_id="file-1", generation="new") == 1


async def test_all_chunks_of_a_long_file_come_in_their_order(vectors: Vectors) -> None:
    numbers = list(range(1100))
    await vectors.upsert([point(EAST, n) for n in reversed(numbers)])
    chunks = await vectors.chunks_of("a", "vs_1", "file-1", "g1")
    assert [chunk.n for chunk in chunks] == numbers


WEIRD = 'we.i"r\\d é[0] '


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Comparison("eq", "lang", "de"), {0}),
        (Comparison("ne", "lang", "de"), {1, 2}),
        (Comparison("in", "lang", ["de", "en"]), {0, 1}),
        (Comparison("nin", "lang", ["de", "en"]), {2}),
        (Comparison("eq", "year", 2024), {0}),
        (Comparison("eq", "year", 2024.0), {0}),
        (Comparison("eq", "year", "2024"), {2}),
        (Comparison("gt", "year", 2024), {1}),
        (Comparison("gte", "year", 2024), {0, 1}),
        (Comparison("lt", "year", 2024.5), {0}),
        (Comparison("lte", "year", 2023), set()),
        (Comparison("eq", "draft", value=True), {1}),
        (Comparison("eq", "draft", 1), set()),
        (Comparison("eq", WEIRD, "x"), {0}),
        (Comparison("gt", WEIRD, 4), {1}),
        (Compound("and", [Comparison("gte", "year", 2024), Comparison("eq", "lang", "en")]), {1}),
        (
            Compound("or", [Comparison("eq", "draft", value=True), Comparison("eq", "lang", "de")]),
            {0, 1},
        ),
        (
            Compound(
                "or",
                [
                    Compound(
                        "and", [Comparison("ne", "lang", "de"), Comparison("ne", "lang", "en")]
                    ),
                    Comparison("lt", "year", 2025),
                ],
            ),
            {0, 2},
        ),
    ],
)
async def test_attributes_are_filtered_by(
    vectors: Vectors, wanted: Filter, numbers: set[int]
) -> None:
    await vectors.upsert(
        [
            point(EAST, 0, attributes={"lang": "de", "year": 2024, WEIRD: "x"}),
            point(EAST, 1, attributes={"lang": "en", "year": 2025, "draft": True, WEIRD: 5}),
            point(EAST, 2, attributes={"year": "2024", "draft": False}),
        ]
    )
    assert await found(vectors, wanted) == numbers


async def test_attributes_are_changed_as_a_whole(vectors: Vectors) -> None:
    await vectors.upsert([point(EAST, 0, attributes={"lang": "de", "year": 5})])
    await vectors.set_attributes("a", "vs_1", "file-1", {"lang": "en"})
    assert await found(vectors, Comparison("eq", "lang", "en")) == {0}
    assert await found(vectors, Comparison("eq", "year", 5)) == set()
    assert await found(vectors, Comparison("gt", "year", 1)) == set()
    (hit,) = await vectors.search("a", ["vs_1"], EAST, limit=1)
    assert hit.chunk.attributes == {"lang": "en"}


@pytest.mark.parametrize(
    "wrong",
    [
        Comparison("in", "lang", "de"),
        Comparison("eq", "lang", ["de"]),
        Comparison("gt", "lang", "de"),
        Comparison("lt", "lang", value=True),
    ],
)
async def test_a_filter_that_makes_no_sense_is_a_400(vectors: Vectors, wrong: Comparison) -> None:
    with pytest.raises(InvalidRequestError, match="needs "):
        await found(vectors, wrong)


async def test_vectors_of_another_size_are_the_operators_to_put_right(vectors: Vectors) -> None:
    await vectors.upsert([point(EAST)])
    with pytest.raises(ModelMisconfiguredError, match="vectors of 3 numbers"):
        await vectors.upsert([point([1.0, 2.0, 3.0])])
    with pytest.raises(ModelMisconfiguredError, match="vectors of 3 numbers"):
        await vectors.search("a", ["vs_1"], [1.0, 2.0, 3.0], limit=1)


async def test_what_is_kept_survives_a_kill(tmp_path: Path) -> None:
    with running_vector_server(tmp_path) as server:
        vectors = opened(server.address)
        await vectors.upsert([point(EAST, n) for n in range(300)])
        await vectors.delete("a", "vs_1", file_id="file-2")
        server.kill()
        with pytest.raises(DependencyDownError, match="needs qdrant"):
            await found(vectors)
        server.start()
        server.wait()
        assert await vectors.count("a", "vs_1") == 300
        assert await found(vectors, Comparison("eq", "x", 1)) == set()
        await vectors.qdrant.aclose()


async def test_a_server_that_hangs_costs_a_bounded_time_and_then_none(tmp_path: Path) -> None:
    with running_vector_server(tmp_path) as server:
        vectors = opened(server.address)
        await vectors.upsert([point(EAST)])
        server.pause()
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(found(vectors) for _ in range(20)), return_exceptions=True
        )
        assert all(isinstance(each, DependencyDownError) for each in outcomes)
        assert time.monotonic() - began < 4
        began = time.monotonic()
        with pytest.raises(DependencyDownError):
            await found(vectors)
        assert time.monotonic() - began < 0.1
        server.resume()
        async with asyncio.timeout(15):
            while not vectors.qdrant.dependency.is_up:
                await asyncio.sleep(0.1)
                await asyncio.gather(found(vectors), return_exceptions=True)
        assert await found(vectors) == {0}
        await vectors.qdrant.aclose()


async def test_a_wrong_key_is_an_outage(qdrant_server: QdrantServer) -> None:
    vectors = opened(QdrantServer(qdrant_server.url, "another-key"))
    with pytest.raises(DependencyDownError):
        await found(vectors)
    await vectors.qdrant.aclose()
