"""PostgreSQL, the vector database and the object store, each killed and each hanging: what every
family of routes says of it, that chats go on, and that all of it comes back by itself. The latter
two also slow, and coming and going: what becomes of files then.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.belongings import Belongings, Json, Person, Route, furnish, routes_of
from tests.file_gateway import BUCKET, objects_in, until_equal
from tests.qdrant import VectorServer, running_vector_server
from tests.run_homes import Home, assistants_home
from tests.s3 import S3Server, running_s3
from tests.slow_proxy import Mode, SlowProxy, slow_proxy
from tests.stores import PostgresServer, running_postgres
from tests.vector_gateway import VectorGateway, play_words, vector_gateway

Killable = PostgresServer | S3Server | VectorServer
Service = Literal["postgres", "qdrant", "objects"]
Fault = Literal["down", "hanging"]
REFUSAL_SECONDS = 3.0
SLOWER = {
    "POST /v1/vector_stores/{vector_store_id}/files/{file_id}": 6.0,
    "POST /v1/files": 5.0,
    "POST /v1/uploads/{upload_id}/parts": 5.0,
}
"""What is written may take longer, until the outage is known."""

KNOWN_SECONDS = 4.0
CHAT_SECONDS = 1.0
BACK_SECONDS = 20.0
VECTORS = "/v1/vector_stores/{vector_store_id}"
NEEDS: Mapping[Service, set[str]] = {
    "qdrant": {
        f"POST {VECTORS}/search",
        f"POST {VECTORS}/files/{{file_id}}",
        f"GET {VECTORS}/files/{{file_id}}/content",
    },
    "objects": {
        *("GET /v1/files/{file_id}/content", "POST /v1/files"),
        "POST /v1/uploads/{upload_id}/parts",
    },
    "postgres": set(),
}
"""What cannot be answered without; without PostgreSQL that is everything."""


@dataclass
class Site:
    """A gateway, and stores of its own behind it."""

    gateway: VectorGateway
    person: Person
    owned: Belongings
    routes: list[Route]
    servers: Mapping[str, Killable]

    def requests(self) -> list[tuple[Route, str, Json]]:
        """Every GET, and what is made anew; a stream of a run that has not ended is left out."""
        found: list[tuple[Route, str, Json]] = []
        for route in self.routes:
            if route.method == "GET":
                found.append((route, route.at(self.owned.done), {}))
            elif route.key in POSTS:
                options = POSTS[route.key]
                if "json" in options:
                    options = {"json": _named(options["json"], self.owned.done)}
                found.append((route, route.at(self.owned.done), options))
        return found

    async def chat(self) -> tuple[int, float, str]:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
        began = time.monotonic()
        answer = await self.person.ask("POST", "/v1/chat/completions", json=body)
        return answer.status_code, time.monotonic() - began, answer.headers.get("x-degraded", "")


SAID = [{"role": "user", "content": "hi"}]
POSTS: Mapping[str, Json] = {
    "POST /v1/assistants": {"json": {"model": "fake"}},
    "POST /v1/assistants/{assistant_id}": {"json": {"name": "x"}},
    "POST /v1/threads": {"json": {}},
    "POST /v1/threads/{thread_id}": {"json": {"metadata": {}}},
    "POST /v1/threads/runs": {"json": {"assistant_id": "{assistant_id}", "thread": {}}},
    "POST /v1/threads/{thread_id}/messages/{message_id}": {"json": {"metadata": {"a": "b"}}},
    "POST /v1/threads/{thread_id}/runs/{run_id}": {"json": {"metadata": {"a": "b"}}},
    "POST /v1/files": {"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "user_data"}},
    "POST /v1/uploads": {
        "json": {"filename": "a", "purpose": "user_data", "bytes": 1, "mime_type": "text/plain"}
    },
    "POST /v1/uploads/{upload_id}/parts": {"files": {"data": b"x"}},
    "POST /v1/vector_stores": {"json": {}},
    f"POST {VECTORS}": {"json": {"name": "x"}},
    f"POST {VECTORS}/search": {"json": {"query": "x"}},
    f"POST {VECTORS}/files/{{file_id}}": {"json": {"attributes": {"a": "b"}}},
    "POST /api/messages/process": {"json": {"messages": SAID}},
}


def _named(body: Json, ids: Mapping[str, str]) -> Json:
    return {
        key: value.format_map(ids) if isinstance(value, str) else value
        for key, value in body.items()
    }


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with (
        running_postgres() as postgres,
        running_s3() as objects,
        running_vector_server(tmp_path_factory.mktemp("vectors") / "own") as qdrant,
    ):
        yield {"postgres": postgres, "objects": objects, "qdrant": qdrant}


@pytest.fixture
async def site(
    tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    play_words(monkeypatch)
    postgres, objects, qdrant = servers["postgres"], servers["objects"], servers["qdrant"]
    with postgres.database() as url:
        async with vector_gateway(tmp_path, url, objects, qdrant.address) as gateway:
            person = Person(gateway.guarded.http, gateway.keys[0])
            owned = await furnish(person, gateway.engine, "Walnut trees grow slowly")
            routes = await routes_of(gateway.guarded.http)
            yield Site(gateway, person, owned, routes, servers)


@asynccontextmanager
async def fault(server: Killable, kind: Fault) -> AsyncIterator[None]:
    """While this lasts."""
    if kind == "down":
        await asyncio.to_thread(server.kill)
    else:
        server.pause()
    try:
        yield
    finally:
        if kind == "down":
            server.start()
            await asyncio.to_thread(server.wait)
        else:
            server.resume()


def check_refusal(route: Route, answer: httpx.Response, seconds: float, most: float) -> None:
    said = f"{route.key}: {answer.status_code} after {seconds:.2f} s: {answer.text[:200]}"
    assert answer.status_code == 503, said
    assert seconds < most, said
    assert int(answer.headers["retry-after"]) >= 1, said
    error = answer.json()["error"]
    if route.path == "/api/messages/process":
        assert isinstance(error, str), said
    else:
        assert error["code"] == "dependency_down", said


async def ask_all(site: Site, service: Service, *, is_known: bool = False) -> float:
    """Each request as it should be answered without this service; the longest refusal, seconds."""
    longest = 0.0

    async def ask(route: Route, path: str, options: Json) -> None:
        nonlocal longest
        began = time.monotonic()
        answer = await site.person.ask(route.method, path, **options)
        seconds = time.monotonic() - began
        if service == "postgres" or route.key in NEEDS[service]:
            slow = SLOWER.get(route.key, REFUSAL_SECONDS) if service != "postgres" else 3.0
            check_refusal(route, answer, seconds, KNOWN_SECONDS if is_known else slow)
            longest = max(longest, seconds)
        else:
            said = f"{route.key}: {answer.status_code} after {seconds:.2f} s: {answer.text[:200]}"
            assert answer.status_code == 200, said
            assert seconds < REFUSAL_SECONDS, said

    await asyncio.gather(*(ask(*each) for each in site.requests()))
    return longest


async def is_well(site: Site) -> bool:
    for route, path, options in site.requests():
        answer = await site.person.ask(route.method, path, **options)
        if answer.status_code == 503:
            return False
        assert answer.status_code == 200, (route.key, answer.text)
    return True


@pytest.mark.parametrize("kind", ["down", "hanging"])
@pytest.mark.parametrize("service", ["qdrant", "objects", "postgres"])
async def test_what_is_kept_says_that_it_is_away_and_comes_back(
    site: Site, service: Service, kind: Fault
) -> None:
    assert await is_well(site)
    async with fault(site.servers[service], kind):
        first = await ask_all(site, service)
        chats = [await site.chat() for _ in range(5)]
        later = await ask_all(site, service, is_known=True)
        chats += [await site.chat() for _ in range(5)]
        print(f"\n{service} {kind}: refused within {first:.2f} s, known {later:.2f} s; {chats[-1]}")
        assert [status for status, _, _ in chats] == [200] * 10
        assert max(seconds for _, seconds, _ in chats) < CHAT_SECONDS
    ended = time.monotonic()
    while not await is_well(site):
        assert time.monotonic() - ended < BACK_SECONDS, f"{service} is not back"
        await asyncio.sleep(0.2)
    print(f"{service} {kind}: all is well {time.monotonic() - ended:.1f} s after its end")


BAD_SECONDS = 3.0
"""So long a service comes and goes while files come, are taken in, are searched and deleted."""


@dataclass
class Shaky:
    """A gateway with vector stores, and proxies before two of its services."""

    gateway: VectorGateway
    proxies: Mapping[str, SlowProxy]
    servers: Mapping[str, Any]

    def set(self, mode: Mode, services: Sequence[str] = ("objects", "qdrant")) -> None:
        for service in services:
            self.proxies[service].set(mode)

    async def chunks(self) -> Counter[tuple[str, str]]:
        """How many there are of each file and attempt."""
        body = {"limit": 1000, "with_payload": True}
        path = "/collections/stack-chunks/points/scroll"
        answer = await asyncio.to_thread(self.servers["qdrant"].address.ask, "POST", path, body)
        points = answer.json()["result"]["points"]
        payloads = [each["payload"] for each in points]
        return Counter((each["file_id"], each["generation"]) for each in payloads)


@pytest.fixture
async def shaky(
    tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shaky]:
    play_words(monkeypatch)
    postgres, objects, qdrant = servers["postgres"], servers["objects"], servers["qdrant"]
    for name in objects_in(objects):  # of other tests
        (objects.folder / BUCKET / name).unlink()
    with (
        postgres.database() as url,
        slow_proxy(objects.port) as before_objects,
        slow_proxy(qdrant.port) as before_qdrant,
    ):
        extra = {
            "S3_URL": f"http://127.0.0.1:{before_objects.port}",
            "QDRANT_URL": f"http://127.0.0.1:{before_qdrant.port}",
        }
        files = {"sweep_seconds": 0.2, "loose_seconds": 2}
        stores = (tmp_path, url, objects, qdrant.address)
        async with vector_gateway(*stores, extra=extra, files=files) as gateway:
            proxies = {"objects": before_objects, "qdrant": before_qdrant}
            yield Shaky(gateway, proxies, servers)


async def asked(
    gateway: VectorGateway, method: str, path: str, **options: Any
) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = await gateway.ask(method, path, **options)
    return answer, time.monotonic() - began


def a_file(text: str) -> Json:
    return {"files": {"file": ("a.txt", text.encode())}, "data": {"purpose": "assistants"}}


async def test_services_that_are_slow_within_their_budget_do_all_the_same(shaky: Shaky) -> None:
    for proxy in shaky.proxies.values():
        proxy.slow_seconds = 0.2
    shaky.set("slow")
    store = await shaky.gateway.store_of({"a.txt": "walnut trees", "b.txt": "stones"})
    search = f"/v1/vector_stores/{store}/search"
    answer, seconds = await asked(shaky.gateway, "POST", search, json={"query": "walnut"})
    assert (answer.status_code, answer.headers.get("x-degraded")) == (200, None), answer.text
    (first, *_) = answer.json()["data"]
    assert first["filename"] == "a.txt"
    assert seconds >= 0.2
    path = f"/v1/files/{first['file_id']}/content"
    answer, seconds = await asked(shaky.gateway, "GET", path)
    assert (answer.status_code, answer.text) == (200, "walnut trees")
    assert seconds >= 0.2


async def test_services_that_are_slower_than_their_budget_are_away_in_time(shaky: Shaky) -> None:
    store = await shaky.gateway.store_of({"a.txt": "walnut trees"})
    (row,) = await shaky.gateway.rows("select id from files")
    for proxy in shaky.proxies.values():
        proxy.slow_seconds = 4.0
    shaky.set("slow")
    search = f"/v1/vector_stores/{store}/search"
    for method, path, options in (
        ("POST", search, {"json": {"query": "walnut"}}),
        ("GET", f"/v1/files/{row['id']}/content", {}),
        ("POST", "/v1/files", a_file("new")),
    ):
        answer, seconds = await asked(shaky.gateway, method, path, **options)
        assert answer.status_code == 503, (path, answer.text)
        assert answer.json()["error"]["code"] == "dependency_down"
        assert seconds < 3.9, (path, seconds)
    shaky.set("pass")
    async with asyncio.timeout(BACK_SECONDS):
        while (await shaky.gateway.ask("POST", "/v1/files", **a_file("new"))).status_code != 200:
            await asyncio.sleep(0.1)
    await until_equal(shaky.gateway.postgres_url, shaky.servers["objects"])


@pytest.mark.parametrize("service", ["qdrant", "objects"])
async def test_a_service_that_comes_and_goes_leaves_files_whole_or_failed(
    shaky: Shaky, service: str
) -> None:
    gateway = shaky.gateway
    store = await gateway.store_of({"a.txt": "walnut trees"})
    kept: dict[str, str] = {}
    refused: Counter[int] = Counter()

    async def come_and_go(number: int) -> None:
        for n in itertools.count():
            text = f"walnut {number} {n} " * 600
            answer = await gateway.ask("POST", "/v1/files", **a_file(text))
            refused[answer.status_code] += 1
            if answer.status_code == 200:
                file_id = answer.json()["id"]
                kept[file_id] = text
                path = f"/v1/vector_stores/{store}"
                answer = await gateway.ask("POST", f"{path}/files", json={"file_id": file_id})
                assert answer.status_code == 200, answer.text
                if n % 4 == 3:
                    answer = await gateway.ask("DELETE", f"/v1/files/{file_id}")
                    assert answer.status_code == 200, answer.text
                    del kept[file_id]
                answer = await gateway.ask("POST", f"{path}/search", json={"query": "walnut"})
                assert answer.status_code in (200, 503), answer.text
            await asyncio.sleep(0.1)

    shaky.set("flap", [service])
    tasks = [asyncio.create_task(come_and_go(number)) for number in range(2)]
    done, pending = await asyncio.wait(tasks, timeout=BAD_SECONDS)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
    shaky.set("pass")
    assert set(refused) <= {200, 503}, refused
    assert refused[200], refused
    async with asyncio.timeout(BACK_SECONDS):
        while await gateway.rows(
            "select from vector_store_files where status = 'in_progress' "
            "union all select from stale_chunks where not was_removed"
        ):
            # What failed meanwhile is due again after a minute.
            await gateway.rows("update stale_chunks set since = now() where not was_removed")
            await asyncio.sleep(1.0)
    rows = await gateway.rows("select * from vector_store_files")
    assert {row["status"] for row in rows} <= {"completed", "failed"}
    assert all(row["last_error"] for row in rows if row["status"] == "failed")
    assert set(kept) <= {row["file_id"] for row in rows}
    whole = {
        (row["file_id"], row["generation"]): row["chunks"]
        for row in rows
        if row["status"] == "completed"
    }
    assert await shaky.chunks() == whole
    for file_id, text in kept.items():
        async with asyncio.timeout(BACK_SECONDS):
            while (answer := await gateway.ask("GET", f"/v1/files/{file_id}/content")).is_error:
                assert answer.status_code == 503, answer.text
                await asyncio.sleep(0.2)
        assert answer.text == text
    await until_equal(gateway.postgres_url, shaky.servers["objects"])
    print(f"\n{service}: {dict(refused)}, {len(whole)} whole of {len(rows)}")


RUNS = 4
LONG: Json = {"timeouts": {"queue_seconds": 5, "first_token_seconds": 10, "total_seconds": 60}}


@pytest.mark.parametrize("kind", ["down", "hanging"])
async def test_runs_survive_an_outage_of_postgres(
    tmp_path: Path, servers: Any, kind: Fault
) -> None:
    postgres: PostgresServer = servers["postgres"]
    with postgres.database() as url:
        async with assistants_home(tmp_path, url, **LONG) as home:
            home.engine.obey(tokens=60, pause=0.05)
            assistant = await home.assistant()
            threads = [await home.thread(f"hello {n}") for n in range(RUNS)]
            runs = [(await home.run(thread, assistant))["id"] for thread in threads]
            async with asyncio.timeout(10):
                while home.engine.running < RUNS:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            async with fault(postgres, kind):
                await asyncio.sleep(3)
            states = await ended(home, list(zip(threads, runs, strict=True)))
            print(f"\n{kind}: {states}")
            assert set(states) == {"completed"}
            for thread, run in zip(threads, runs, strict=True):
                said = await home.messages(thread)
                assert [message["role"] for message in said] == ["user", "assistant"]
                assert said[1]["status"] == "completed"
                assert len(said[1]["content"][0]["text"]["value"]) == 60
                (step,) = [
                    each for each in await home.steps(thread, run) if each["status"] == "completed"
                ]
                assert step["step_details"]["message_creation"]["message_id"] == said[1]["id"]


async def ended(home: Home, runs: list[tuple[str, str]]) -> list[str]:
    """Their final states, each within a minute of the outage."""
    states = []
    deadline = time.monotonic() + 60
    for thread, run in runs:
        while True:
            answer = await home.http.get(f"/v1/threads/{thread}/runs/{run}")
            if answer.status_code == 200:
                status = answer.json()["status"]
                if status not in ("queued", "in_progress", "cancelling"):
                    states.append(status)
                    break
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.1)
    return states
