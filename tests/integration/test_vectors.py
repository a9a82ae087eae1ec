"""That collections are there: the same in our vector server and, with QDRANT_URL, the real one."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from api_server.errors import SetupError, StoreAwayError
from api_server.schemas.store_layout import Collection, Graph, PayloadIndex
from api_server.stores.vector_setup import VectorSetup
from tests.qdrant import QdrantServer, running_vector_server
from tests.s3 import S3Server


@pytest.fixture
def wanted(qdrant_server: QdrantServer) -> Iterator[Collection]:
    """A collection that nobody has made yet; gone afterwards."""
    name = f"test-{secrets.token_hex(6)}"
    yield Collection(
        name=name,
        vector_size=8,
        distance="Cosine",
        hnsw=Graph(m=0, payload_m=16),
        indexes={
            "app_id": PayloadIndex(type="keyword", is_tenant=True),
            "vector_store_id": PayloadIndex(type="keyword"),
        },
    )
    qdrant_server.ask("DELETE", f"/collections/{name}")


@pytest.fixture
async def vectors(qdrant_server: QdrantServer) -> AsyncIterator[VectorSetup]:
    opened = VectorSetup(qdrant_server.url, qdrant_server.api_key)
    yield opened
    await opened.aclose()


async def test_what_is_missing_is_made_once(
    qdrant_server: QdrantServer, vectors: VectorSetup, wanted: Collection
) -> None:
    name = wanted.name
    made = await vectors.ensure_collection(wanted)
    assert made == [name, f"{name}.app_id", f"{name}.vector_store_id"]
    assert await vectors.ensure_collection(wanted) == []
    found = qdrant_server.describe(name)
    told = found["config"]["params"]["vectors"]
    assert (told["size"], told["distance"]) == (8, "Cosine")
    assert found["config"]["hnsw_config"]["m"] == 0
    assert found["config"]["hnsw_config"]["payload_m"] == 16
    assert found["config"]["quantization_config"] is None
    indexes = found["payload_schema"]
    assert indexes["app_id"]["data_type"] == indexes["vector_store_id"]["data_type"] == "keyword"
    assert indexes["app_id"]["params"]["is_tenant"] is True


async def test_an_index_that_is_missing_is_made(
    qdrant_server: QdrantServer, vectors: VectorSetup, wanted: Collection
) -> None:
    await vectors.ensure_collection(wanted)
    path = f"/collections/{wanted.name}/index/app_id?wait=true"
    assert qdrant_server.ask("DELETE", path).status_code == 200
    assert await vectors.ensure_collection(wanted) == [f"{wanted.name}.app_id"]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"size": 384, "distance": "Cosine"}, r"of 384 numbers \(Cosine\).*says 8 \(Cosine\)"),
        ({"size": 8, "distance": "Dot"}, r"of 8 numbers \(Dot\).*says 8 \(Cosine\)"),
        ({"image": {"size": 8, "distance": "Cosine"}}, "of None numbers"),
    ],
)
async def test_a_collection_of_other_vectors_is_left_as_it_is(
    there: object, told: str, qdrant_server: QdrantServer, vectors: VectorSetup, wanted: Collection
) -> None:
    qdrant_server.ask("PUT", f"/collections/{wanted.name}", {"vectors": there}).raise_for_status()
    before = qdrant_server.describe(wanted.name)
    with pytest.raises(SetupError, match=f"{told}.*Nothing was changed.*a new name"):
        await vectors.ensure_collection(wanted)
    assert qdrant_server.describe(wanted.name) == before


@pytest.mark.parametrize("there", ["keyword", "integer", {"type": "uuid", "is_tenant": True}])
async def test_another_index_is_left_as_it_is(
    there: object, qdrant_server: QdrantServer, vectors: VectorSetup, wanted: Collection
) -> None:
    path = f"/collections/{wanted.name}"
    shape = {"vectors": {"size": 8, "distance": "Cosine"}}
    qdrant_server.ask("PUT", path, shape).raise_for_status()
    index = {"field_name": "app_id", "field_schema": there}
    qdrant_server.ask("PUT", f"{path}/index?wait=true", index).raise_for_status()
    with pytest.raises(SetupError, match=r"another index of app_id.*DELETE /collections/.*/app_id"):
        await vectors.ensure_collection(wanted)
    assert set(qdrant_server.describe(wanted.name)["payload_schema"]) == {"app_id"}


async def test_ten_at_once_make_one(vectors: VectorSetup, wanted: Collection) -> None:
    results = await asyncio.gather(*(vectors.ensure_collection(wanted) for _ in range(10)))
    assert sum(wanted.name in made for made in results) == 1
    assert await vectors.ensure_collection(wanted) == []


@pytest.mark.parametrize("key", [None, "another-key-of-somebody"])
async def test_a_wrong_key_is_refused_with_a_sentence(
    key: str | None, qdrant_server: QdrantServer, wanted: Collection
) -> None:
    vectors = VectorSetup(qdrant_server.url, key)
    with pytest.raises(SetupError, match="Qdrant refuses QDRANT_API_KEY") as caught:
        await vectors.ensure_collection(wanted)
    assert not isinstance(caught.value, StoreAwayError)
    await vectors.aclose()


async def test_what_qdrant_refuses_is_said_in_its_words(
    vectors: VectorSetup, wanted: Collection
) -> None:
    bad = wanted.model_copy(update={"distance": "Crow"})
    with pytest.raises(SetupError, match=r"Qdrant refuses this \(status 4\d\d\): .*"):
        await vectors.ensure_collection(bad)


async def test_a_server_that_is_away(wanted: Collection) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        vectors = VectorSetup(f"http://127.0.0.1:{taken.getsockname()[1]}", "key")
        with pytest.raises(StoreAwayError, match="does not answer at QDRANT_URL"):
            await vectors.ensure_collection(wanted)


async def test_a_server_that_hangs(wanted: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_server.stores.vector_setup.READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        vectors = VectorSetup(f"http://127.0.0.1:{silent.getsockname()[1]}", "key")
        async with asyncio.timeout(2):
            with pytest.raises(StoreAwayError, match="ReadTimeoutError"):
                await vectors.ensure_collection(wanted)
        await vectors.aclose()


async def test_a_server_that_is_not_qdrant(s3_server: S3Server, wanted: Collection) -> None:
    vectors = VectorSetup(f"{s3_server.url}/nowhere", None)
    with pytest.raises(SetupError, match=r"QDRANT_URL is not Qdrant|refuses QDRANT_API_KEY"):
        await vectors.ensure_collection(wanted)
    await vectors.aclose()


async def test_the_vector_server_keeps_collections_and_guards_them(
    tmp_path: Path, wanted: Collection
) -> None:
    with running_vector_server(tmp_path, "a-key-of-the-test") as server:
        first = server.address
        vectors = VectorSetup(first.url, first.api_key)
        assert wanted.name in await vectors.ensure_collection(wanted)
        await vectors.aclose()
    with running_vector_server(tmp_path, "a-key-of-the-test") as server:
        second = server.address
        vectors = VectorSetup(second.url, second.api_key)
        assert await vectors.ensure_collection(wanted) == []
        await vectors.aclose()
        async with httpx.AsyncClient(base_url=second.url) as http:
            assert (await http.get("/readyz")).status_code == 200
            assert (await http.get("/metrics")).status_code == 401
            bearer = {"authorization": "Bearer a-key-of-the-test"}
            assert "collections_total 1" in (await http.get("/metrics", headers=bearer)).text
