"""Vector stores by the official client: real PostgreSQL, S3 and vector server."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import openai
import pytest

from tests.qdrant import QdrantServer, VectorServer, running_vector_server
from tests.s3 import S3Server
from tests.vector_gateway import VectorGateway, play_words, vector_gateway
from tests.wire import assert_valid

TEXTS = {
    "apples.txt": "Apples grow on trees in orchards of the north.",
    "bread.md": "# Bread\n\nBread is baked from flour, water and salt in a hot oven.",
    "comets.txt": "Comets are made of ice and dust and circle the sun in long orbits.",
}


@pytest.fixture
async def gateway(
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[VectorGateway]:
    play_words(monkeypatch)
    qdrant_server.ask("DELETE", "/collections/stack-chunks")
    async with vector_gateway(tmp_path, postgres_url, s3_server, qdrant_server) as made:
        yield made


async def found(gateway: VectorGateway, store: str, query: Any, **wishes: Any) -> list[str]:
    body = {"query": query} | wishes
    answer = await gateway.ask("POST", f"/v1/vector_stores/{store}/search", json=body)
    assert answer.status_code == 200, answer.text
    assert_valid("VectorStoreSearchResultsPage", answer.json())
    return [each["filename"] for each in answer.json()["data"]]


async def test_files_are_taken_in_and_found(gateway: VectorGateway) -> None:
    store = await gateway.store_of(TEXTS, name="knowledge", metadata={"a": "b"})
    told = (await gateway.ask("GET", f"/v1/vector_stores/{store}")).json()
    assert_valid("VectorStoreObject", told)
    assert (told["status"], told["name"], told["metadata"]) == (
        "completed",
        "knowledge",
        {"a": "b"},
    )
    assert told["file_counts"] == {
        "in_progress": 0,
        "completed": 3,
        "failed": 0,
        "cancelled": 0,
        "total": 3,
    }
    assert told["usage_bytes"] > 0
    assert (await found(gateway, store, "bread baked in an oven"))[0] == "bread.md"
    assert (await found(gateway, store, ["comets of ice", "apples on trees"]))[:2] != ["bread.md"]
    assert len(await found(gateway, store, "ice", max_num_results=1)) == 1
    near = await found(
        gateway, store, "Comets of ice and dust", ranking_options={"score_threshold": 0.3}
    )
    assert near == ["comets.txt"]
    page = await gateway.client.vector_stores.search(store, query="apples", rewrite_query=True)
    assert page.data[0].content[0].text == TEXTS["apples.txt"]
    assert 0 <= page.data[0].score <= 1


async def test_attributes_are_given_filtered_and_changed(gateway: VectorGateway) -> None:
    store = (await gateway.client.vector_stores.create()).id
    for name, text in TEXTS.items():
        await gateway.client.vector_stores.files.create_and_poll(
            await gateway.upload(name, text),
            vector_store_id=store,
            attributes={"name": name, "long": len(text), "sweet": name == "apples.txt"},
            poll_interval_ms=50,
        )
    by_name = {"type": "eq", "key": "name", "value": "bread.md"}
    assert await found(gateway, store, "comets", filters=by_name) == ["bread.md"]
    sweet = {"type": "eq", "key": "sweet", "value": True}
    either = {"type": "or", "filters": [by_name, sweet]}
    assert set(await found(gateway, store, "food", filters=either)) == {"bread.md", "apples.txt"}
    listed = await gateway.client.vector_stores.files.list(store)
    file = next(each for each in listed.data if (each.attributes or {})["name"] == "bread.md")
    changed = await gateway.client.vector_stores.files.update(
        file.id, vector_store_id=store, attributes={"name": "loaf"}
    )
    assert changed.attributes == {"name": "loaf"}
    assert await found(gateway, store, "x", filters=by_name) == []
    by_new = {"type": "in", "key": "name", "value": ["loaf"]}
    assert await found(gateway, store, "x", filters=by_new) == ["bread.md"]


async def test_files_are_listed_read_and_taken_out(gateway: VectorGateway) -> None:
    store = await gateway.store_of(TEXTS)
    files = gateway.client.vector_stores.files
    pages = [each.id async for each in files.list(store, limit=2, order="asc")]
    assert len(set(pages)) == 3
    raw = await gateway.ask("GET", f"/v1/vector_stores/{store}/files?filter=completed")
    assert_valid("ListVectorStoreFilesResponse", raw.json())
    assert [each.id async for each in files.list(store, filter="failed")] == []
    first = pages[0]
    one = await gateway.ask("GET", f"/v1/vector_stores/{store}/files/{first}")
    assert_valid("VectorStoreFileObject", one.json())
    content = await gateway.ask("GET", f"/v1/vector_stores/{store}/files/{first}/content")
    assert_valid("VectorStoreFileContentResponse", content.json())
    assert content.json()["data"] == [{"type": "text", "text": TEXTS["apples.txt"]}]
    gone = await gateway.ask("DELETE", f"/v1/vector_stores/{store}/files/{first}")
    assert_valid("DeleteVectorStoreFileResponse", gone.json())
    assert "apples.txt" not in await found(gateway, store, "apples on trees")
    with pytest.raises(openai.NotFoundError):
        await files.retrieve(first, vector_store_id=store)
    assert (await gateway.client.files.retrieve(first)).filename == "apples.txt"


async def until_swept(gateway: VectorGateway) -> None:
    async with asyncio.timeout(15):
        while await gateway.rows("select from stale_chunks where not was_removed"):
            await asyncio.sleep(0.05)


def points(qdrant: QdrantServer) -> int:
    told = qdrant.ask("POST", "/collections/stack-chunks/points/count", {"exact": True})
    return int(told.json()["result"]["count"])


async def test_what_comes_before_texts_and_questions_is_embedded_and_not_kept(
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play_words(monkeypatch)
    qdrant_server.ask("DELETE", "/collections/stack-chunks")
    told = {"ingests": 2, "document_prefix": "kept: ", "query_prefix": "asked: "}
    made = vector_gateway(tmp_path, postgres_url, s3_server, qdrant_server, retrieval=told)
    async with made as gateway:
        store = await gateway.store_of(TEXTS)
        embedded = [text for body in gateway.engine.bodies for text in body.get("input", ())]
        assert {f"kept: {text}" for text in TEXTS.values()} <= set(embedded)
        assert "apples.txt" in await found(gateway, store, "apples on trees")
        assert gateway.engine.bodies[-1]["input"] == ["asked: apples on trees"]
        (file, *_) = (await gateway.client.vector_stores.files.list(store, order="asc")).data
        path = f"/v1/vector_stores/{store}/files/{file.id}"
        content = (await gateway.ask("GET", f"{path}/content")).json()["data"]
        assert content == [{"type": "text", "text": TEXTS["apples.txt"]}]
        assert file.usage_bytes == len(TEXTS["apples.txt"].encode())


EMPTY_LISTS = {
    "/v1/assistants": "ListAssistantsResponse",
    "/v1/files": "ListFilesResponse",
    "/v1/vector_stores": "ListVectorStoresResponse",
    "/v1/threads/{thread}/messages": "ListMessagesResponse",
    "/v1/threads/{thread}/runs": "ListRunsResponse",
    "/api/actions": None,
}
EMPTY_IN_A_STORE = ("files", "file_batches/{batch}/files")


async def test_an_empty_list_has_empty_ids_at_its_ends(gateway: VectorGateway) -> None:
    """The reference allows no null there."""
    nothing = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    thread = (await gateway.ask("POST", "/v1/threads", app=1)).json()["id"]
    for path, schema in EMPTY_LISTS.items():
        told = (await gateway.ask("GET", path.format(thread=thread), app=1)).json()
        assert told == nothing, path
        if schema is not None:
            assert_valid(schema, told)
    file = (await gateway.other.files.create(file=("a.txt", b"a"), purpose="assistants")).id
    stores = gateway.other.vector_stores
    store = (await stores.create()).id
    batch = (await stores.file_batches.create(store, file_ids=[file])).id
    await stores.files.delete(file, vector_store_id=store)
    for path in EMPTY_IN_A_STORE:
        asked = f"/v1/vector_stores/{store}/{path.format(batch=batch)}"
        told = (await gateway.ask("GET", asked, app=1)).json()
        assert told == nothing, path
        assert_valid("ListVectorStoreFilesResponse", told)


async def test_nothing_is_left_of_what_is_deleted(
    gateway: VectorGateway, qdrant_server: QdrantServer
) -> None:
    store, kept = await gateway.store_of(TEXTS), await gateway.store_of(TEXTS)
    assert points(qdrant_server) == 6
    files = [each.id async for each in gateway.client.vector_stores.files.list(store)]
    await gateway.client.files.delete(files[0])  # out of all stores, with the file
    await until_swept(gateway)
    assert points(qdrant_server) == 5
    deleted = await gateway.ask("DELETE", f"/v1/vector_stores/{store}")
    assert_valid("DeleteVectorStoreResponse", deleted.json())
    await until_swept(gateway)
    assert points(qdrant_server) == 3
    assert len(await found(gateway, kept, "apples")) == 3


async def test_a_file_that_is_added_again_is_taken_in_anew(
    gateway: VectorGateway, qdrant_server: QdrantServer
) -> None:
    store = await gateway.store_of({"a.txt": "one two three"})
    (file,) = [each.id async for each in gateway.client.vector_stores.files.list(store)]
    again = await gateway.client.vector_stores.files.create_and_poll(
        file, vector_store_id=store, attributes={"x": 1}, poll_interval_ms=50
    )
    assert (again.status, again.attributes) == ("completed", {"x": 1})
    assert await found(gateway, store, "one") == ["a.txt"]
    await until_swept(gateway)
    assert points(qdrant_server) == 1


async def test_chunks_that_do_not_count_any_more_are_not_found(gateway: VectorGateway) -> None:
    store = await gateway.store_of({f"{n}.txt": f"pear number {n}" for n in range(6)})
    await gateway.rows(
        "update vector_store_files set generation = 'newer' where file_id in "
        "(select file_id from vector_store_files order by file_id limit 3)"
    )
    await gateway.rows(
        "update vector_store_files set status = 'cancelled' where file_id = "
        "(select max(file_id) from vector_store_files where generation <> 'newer')"
    )
    assert len(await found(gateway, store, "pear", max_num_results=2)) == 2


@pytest.mark.parametrize("chunking", [None, {"type": "static", "static": {}}])
async def test_wrong_wishes_are_400_and_leave_nothing(
    gateway: VectorGateway, chunking: object
) -> None:
    overlap = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51}
    strategy = {"type": "static", "static": overlap} if chunking is None else chunking
    answer = await gateway.ask("POST", "/v1/vector_stores", json={"chunking_strategy": strategy})
    assert answer.status_code == 400
    assert "chunk" in answer.json()["error"]["message"]
    missing = await gateway.ask("POST", "/v1/vector_stores", json={"file_ids": ["file-none"]})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "file_ids")
    assert (await gateway.client.vector_stores.list()).data == []


SEARCHES: list[dict[str, Any]] = [
    {},
    {"query": ""},
    {"query": []},
    {"query": "a\0b"},
    {"query": "x", "max_num_results": 51},
    {"query": "x", "max_num_results": 0},
    {"query": "x", "ranking_options": {"score_threshold": 2}},
    {"query": "x", "filters": {"type": "eq", "key": "a"}},
    {"query": "x", "filters": {"type": "and", "filters": []}},
    {"query": "x", "filters": {"type": "gt", "key": "a", "value": "b"}},
    {"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}},
    {"query": "x", "filters": {"type": "in", "key": "a", "value": ["b"] * 65}},
]


async def test_searches_that_cannot_be_are_400(gateway: VectorGateway) -> None:
    store = await gateway.store_of({"a.txt": "one"})
    for body in SEARCHES:
        answer = await gateway.ask("POST", f"/v1/vector_stores/{store}/search", json=body)
        assert (answer.status_code, body) == (400, body)


async def test_a_batch_can_be_cancelled(gateway: VectorGateway) -> None:
    store = (await gateway.client.vector_stores.create(name="x")).id
    ids = [await gateway.upload(f"{n}.txt", "word " * 2000) for n in range(12)]
    files = [{"file_id": each, "attributes": {"n": n}} for n, each in enumerate(ids)]
    path = f"/v1/vector_stores/{store}/file_batches"
    made = (await gateway.ask("POST", path, json={"files": files})).json()
    assert_valid("VectorStoreFileBatchObject", made)
    cancelled = (await gateway.ask("POST", f"{path}/{made['id']}/cancel")).json()
    assert_valid("VectorStoreFileBatchObject", cancelled)
    assert cancelled["status"] == "cancelled"
    counts = cancelled["file_counts"]
    assert counts["in_progress"] == 0
    assert counts["cancelled"] + counts["completed"] == 12
    assert counts["cancelled"] > 0
    listed = await gateway.ask("GET", f"{path}/{made['id']}/files?filter=cancelled")
    assert len(listed.json()["data"]) == counts["cancelled"]
    await until_swept(gateway)


async def test_a_store_expires_and_says_so(gateway: VectorGateway) -> None:
    wish = {"anchor": "last_active_at", "days": 1}
    store = await gateway.store_of({"a.txt": "one"}, expires_after=wish)
    told = await gateway.client.vector_stores.retrieve(store)
    assert told.expires_at == (told.last_active_at or 0) + 86_400
    await gateway.rows("update vector_stores set last_active_at = now() - interval '25 hours'")
    assert (await gateway.client.vector_stores.retrieve(store)).status == "expired"
    with pytest.raises(openai.BadRequestError, match="has expired"):
        await gateway.client.vector_stores.search(store, query="one")
    with pytest.raises(openai.BadRequestError, match="has expired"):
        file = await gateway.upload("b.txt", "two")
        await gateway.client.vector_stores.files.create(store, file_id=file)
    assert len((await gateway.client.vector_stores.files.list(store)).data) == 1


async def test_a_store_that_has_expired_stays_so(gateway: VectorGateway) -> None:
    """Whether the sweep has seen it or not; one that has not can be kept from it."""
    wish = {"anchor": "last_active_at", "days": 1}
    stores = [await gateway.store_of({"a.txt": "one"}, expires_after=wish) for _ in range(2)]
    late, timely = (f"/v1/vector_stores/{store}" for store in stores)
    for store, hours in zip(stores, ("24 hours", "23 hours 59 minutes"), strict=True):
        await gateway.rows(
            f"update vector_stores set last_active_at = now() - interval '{hours}' where id = $1",
            store,
        )
    statuses = [(await gateway.ask("GET", path)).json()["status"] for path in (late, timely)]
    assert statuses == ["expired", "completed"]
    for path, status in ((late, "expired"), (timely, "completed")):
        answer = await gateway.ask("POST", path, json={"expires_after": None, "name": "x"})
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["name"]) == (status, "x")
    assert (await gateway.ask("GET", timely)).json()["expires_at"] is None
    answer = await gateway.ask("POST", f"{late}/search", json={"query": "one"})
    assert answer.status_code == 400
    answer = await gateway.ask("POST", f"{timely}/search", json={"query": "one"})
    assert len(answer.json()["data"]) == 1


@pytest.mark.parametrize(("days", "status"), [(0, 400), (1, 200), (365, 200), (366, 400)])
async def test_days_of_a_store_at_their_edges(
    gateway: VectorGateway, days: int, status: int
) -> None:
    wish = {"expires_after": {"anchor": "last_active_at", "days": days}}
    made = await gateway.ask("POST", "/v1/vector_stores", json=wish)
    assert made.status_code == status, made.text
    store = (await gateway.client.vector_stores.create()).id
    changed = await gateway.ask("POST", f"/v1/vector_stores/{store}", json=wish)
    assert changed.status_code == status, changed.text


async def test_chunks_of_an_app_have_a_bound(
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all its stores together, and of no other app's; also for files that were let in."""
    play_words(monkeypatch)
    told: Any = {"retrieval": {"ingests": 1, "app_chunks": 2}}
    async with vector_gateway(tmp_path, postgres_url, s3_server, qdrant_server, **told) as gateway:
        names = ["a.txt", "b.txt", "c.txt"]
        ids = [await gateway.upload(name, "one two") for name in names]
        stores = [(await gateway.client.vector_stores.create()).id for _ in range(2)]
        batch = await gateway.client.vector_stores.file_batches.create_and_poll(
            stores[0], file_ids=ids, poll_interval_ms=50
        )
        assert (batch.file_counts.completed, batch.file_counts.failed) == (2, 1)
        rows = await gateway.rows("select * from vector_store_files where status = 'failed'")
        assert "2 chunks or more" in rows[0]["last_error"]
        path = f"/v1/vector_stores/{stores[1]}/files"
        answer = await gateway.ask("POST", path, json={"file_id": ids[0]})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "storage_full"
        other = (await gateway.other.vector_stores.create()).id
        file = await gateway.other.files.create(file=("d.txt", b"four"), purpose="assistants")
        await gateway.other.vector_stores.files.create_and_poll(
            file.id, vector_store_id=other, poll_interval_ms=50
        )
        await gateway.client.vector_stores.delete(stores[0])
        answer = await gateway.ask("POST", path, json={"file_id": ids[0]})
        assert answer.status_code == 200, answer.text


ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("POST", "", {"name": "mine now"}),
    ("DELETE", "", None),
    ("POST", "/search", {"query": "apples"}),
    ("POST", "/files", {"file_id": "FILE"}),
    ("GET", "/files", None),
    ("GET", "/files/FILE", None),
    ("POST", "/files/FILE", {"attributes": {"a": "b"}}),
    ("GET", "/files/FILE/content", None),
    ("DELETE", "/files/FILE", None),
    ("POST", "/file_batches", {"file_ids": ["FILE"]}),
    ("GET", "/file_batches/BATCH", None),
    ("POST", "/file_batches/BATCH/cancel", None),
    ("GET", "/file_batches/BATCH/files", None),
]


async def test_no_route_shows_anything_of_another_app(gateway: VectorGateway) -> None:
    store = await gateway.store_of(TEXTS)
    (file, *_) = [each.id async for each in gateway.client.vector_stores.files.list(store)]
    (batch,) = await gateway.rows("select id from vector_store_batches")
    before = await gateway.rows("select * from vector_store_files order by file_id")
    for method, path, body in ROUTES:
        place = path.replace("FILE", file).replace("BATCH", batch["id"])
        told = None if body is None else {k: v if v != "FILE" else file for k, v in body.items()}
        answer = await gateway.ask(*(method, f"/v1/vector_stores/{store}{place}"), app=1, json=told)
        assert (answer.status_code, method, path) == (404, method, path)
    assert (await gateway.other.vector_stores.list()).data == []
    theirs = (await gateway.other.vector_stores.create(name="theirs")).id
    answer = await gateway.ask(
        "POST", f"/v1/vector_stores/{theirs}/files", app=1, json={"file_id": file}
    )
    assert answer.status_code == 404
    assert (await gateway.other.vector_stores.search(theirs, query="apples on trees")).data == []
    assert await gateway.rows("select * from vector_store_files order by file_id") == before
    assert len(await found(gateway, store, "apples")) == 3


async def test_stores_are_listed_page_by_page(gateway: VectorGateway) -> None:
    ids = [(await gateway.client.vector_stores.create(name=str(n))).id for n in range(5)]
    listed = [each.id async for each in gateway.client.vector_stores.list(limit=2, order="asc")]
    assert listed == ids
    raw = await gateway.ask("GET", "/v1/vector_stores?limit=2")
    assert_valid("ListVectorStoresResponse", raw.json())
    changed = await gateway.client.vector_stores.update(ids[0], name="new", metadata={"k": "v"})
    assert (changed.name, changed.metadata) == ("new", {"k": "v"})


@pytest.fixture
def own(tmp_path: Path) -> Any:
    with running_vector_server(tmp_path / "vectors") as server:
        yield server


async def chat(gateway: VectorGateway) -> int:
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    return (await gateway.ask("POST", "/v1/chat/completions", json=body)).status_code


async def search(gateway: VectorGateway, store: str) -> httpx.Response:
    return await gateway.ask("POST", f"/v1/vector_stores/{store}/search", json={"query": "one"})


async def test_a_vector_database_that_hangs_is_no_outage_of_postgresql(
    own: VectorServer,
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play_words(monkeypatch)
    monkeypatch.setattr("api_server.services.vector_stores.files.CHUNKS_SECONDS", 0.5)
    monkeypatch.setattr("api_server.services.vector_stores.files.ATTRIBUTES_SECONDS", 1.5)
    async with vector_gateway(tmp_path, postgres_url, s3_server, own.address) as gateway:
        store = await gateway.store_of({"a.txt": "one two"})
        (file,) = [each.id async for each in gateway.client.vector_stores.files.list(store)]
        path = f"/v1/vector_stores/{store}"
        own.pause()
        wanted = {"attributes": {"a": 1}}
        changes = (gateway.ask("POST", f"{path}/files/{file}", json=wanted) for _ in range(12))
        statuses = {each.status_code for each in await asyncio.gather(*changes)}
        assert statuses <= {503, 429}, statuses
        dependencies = (await gateway.guarded.http.get("/health")).json()["dependencies"]
        assert dependencies["postgres"] == "up", dependencies
        assert (await gateway.ask("GET", f"{path}/files/{file}")).json()["attributes"] == {}
        own.resume()


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_an_outage_of_the_vector_database_is_a_503_and_costs_chats_nothing(
    own: VectorServer,
    fault: str,
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play_words(monkeypatch)
    async with vector_gateway(tmp_path, postgres_url, s3_server, own.address) as gateway:
        store = await gateway.store_of({"a.txt": "one two", "b.txt": "three"})
        (file, *_) = [each.id async for each in gateway.client.vector_stores.files.list(store)]
        assert (await search(gateway, store)).status_code == 200
        getattr(own, fault)()
        began = time.monotonic()
        answers = await asyncio.gather(*(search(gateway, store) for _ in range(8)))
        assert time.monotonic() - began < 5
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "dependency_down"
            assert float(answer.headers["retry-after"]) >= 1
        began = time.monotonic()
        assert await chat(gateway) == 200
        assert time.monotonic() - began < 1
        health = (await gateway.guarded.http.get("/health")).json()
        assert health["dependencies"]["qdrant"] == "down", health
        path = f"/v1/vector_stores/{store}"
        assert (await gateway.ask("GET", path)).status_code == 200
        assert (await gateway.ask("DELETE", f"{path}/files/{file}")).status_code == 200
        if fault == "kill":
            own.start()
        else:
            own.resume()
        own.wait()
        async with asyncio.timeout(25):
            while (await search(gateway, store)).status_code != 200:
                await asyncio.sleep(0.2)
            while await gateway.rows("select from stale_chunks where since < now()"):
                await asyncio.sleep(0.2)
        assert len(await found(gateway, store, "three")) == 1


async def test_a_file_that_is_being_deleted_is_not_there(gateway: VectorGateway) -> None:
    """Whoever adds it meanwhile waits for what becomes of it."""
    store = (await gateway.client.vector_stores.create()).id
    file = await gateway.upload("a.txt", "one two three")
    connection = await asyncpg.connect(gateway.postgres_url)
    try:
        async with connection.transaction():
            await connection.execute("delete from files where id = $1", file)
            body = {"file_id": file}
            adding = asyncio.create_task(
                gateway.ask("POST", f"/v1/vector_stores/{store}/files", json=body)
            )
            await asyncio.sleep(0.5)
            assert not adding.done()
    finally:
        await connection.close()
    answer = await adding
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "file_id")


async def test_without_qdrant_the_answer_says_what_to_set(
    tmp_path: Path, postgres_url: str, s3_server: S3Server
) -> None:
    nothing = QdrantServer("", "")
    async with vector_gateway(tmp_path, postgres_url, s3_server, nothing) as gateway:
        search: dict[str, Any] = {"file_search": {"vector_stores": [{}]}}
        for path, field in (("vector_stores", {}), ("threads", {"tool_resources": search})):
            answer = await gateway.ask("POST", f"/v1/{path}", json=field)
            assert answer.status_code == 503
            assert "Vector stores need Qdrant: set QDRANT_URL" in answer.json()["error"]["message"]
