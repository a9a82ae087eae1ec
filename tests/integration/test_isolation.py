"""Nobody reaches anything of another app, or of another user: every route is walked."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.belongings import (
    Belongings,
    Ids,
    Json,
    Person,
    Route,
    body_for,
    everything,
    furnish,
    ids_of,
    mixtures,
    routes_of,
)
from tests.qdrant import QdrantServer
from tests.s3 import S3Server
from tests.vector_gateway import VectorGateway, play_words, vector_gateway

SECRET = "a-secret-that-nobody-would-ever-guess"
ANNS = "Walnut the treasure of ann lies under the old oak"
BOBS = "Cherry bob keeps bees behind the mill"
EVES = "Banana eve sails a yellow boat"
LISTS = ("/v1/assistants", "/v1/files", "/v1/vector_stores", "/api/actions")
CREATES = (
    *("/v1/assistants", "/v1/threads", "/v1/threads/runs", "/v1/files", "/v1/uploads"),
    *("/v1/vector_stores", "/api/messages/process"),
)
"""POST without a parameter: `named_in_bodies` has those that can name something."""


@dataclass
class Town:
    """`ann` and `bob` are users of one app, whose key `shop` has; `eve` is another app."""

    gateway: VectorGateway
    shop: Person
    ann: Person
    bob: Person
    eve: Person
    anns: Belongings
    bobs: Belongings
    eves: Belongings
    shop_id: str
    routes: list[Route]

    async def unchanged(self) -> Any:
        return await everything(self.gateway.postgres_url)


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + 600}, SECRET, "HS256")


@pytest.fixture
async def town(
    tmp_path: Path,
    postgres_url: str,
    s3_server: S3Server,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Town]:
    play_words(monkeypatch)
    extra = {"JWT_SECRET": SECRET, "JWT_APP": "shop"}
    made = vector_gateway(tmp_path, postgres_url, s3_server, qdrant_server, extra=extra)
    async with made as gateway:
        http, engine = gateway.guarded.http, gateway.engine
        ann, bob, shop, eve = (
            Person(http, secret) for secret in (token("ann"), token("bob"), *gateway.keys)
        )
        anns, bobs, eves = [
            await furnish(person, engine, words, app)
            for person, app, words in ((ann, shop, ANNS), (bob, shop, BOBS), (eve, eve, EVES))
        ]
        (app,) = await gateway.rows("select id from apps where name = 'shop'")
        routes = await routes_of(http)
        await settled(gateway)
        yield Town(gateway, shop, ann, bob, eve, anns, bobs, eves, app["id"], routes)


async def settled(gateway: VectorGateway) -> None:
    """Nothing changes by itself any more."""
    async with asyncio.timeout(10):
        while await gateway.rows("select from jobs where state in ('queued', 'processing')"):
            await asyncio.sleep(0.02)
        before = await everything(gateway.postgres_url)
        while before != (now := await everything(gateway.postgres_url)):
            before = now
            await asyncio.sleep(0.2)


def with_ids(town: Town) -> list[Route]:
    return [route for route in town.routes if route.names]


async def view_of(
    person: Person, whose: Belongings, routes: list[Route], *, lists: bool = True
) -> dict[str, Any]:
    """All that somebody gets to see of what they have: every GET, whose answer is 200."""
    seen: dict[str, Any] = {}
    for route in routes:
        if route.method != "GET" or (not route.names and not lists):
            continue
        for ids in whose.of(route) if route.names else [{}]:
            if route.path.endswith("/events") and ids is whose.waiting:
                continue  # a stream that has not ended
            path = route.at(ids)
            answer = await person.ask("GET", path)
            assert answer.status_code == 200, (path, answer.text)
            seen[path] = answer.content
    return seen


async def walk(
    asker: Person, mine: Belongings, theirs: Belongings, routes: list[Route]
) -> list[str]:
    """What does not answer 404 where something of theirs is named, by all routes."""
    wrong = []
    for route in routes:
        for own, strange in zip(mine.of(route), theirs.of(route), strict=True):
            for ids in mixtures(route.names, own, strange):
                options = body_for(route, mine, theirs)
                answer = await asker.ask(route.method, route.at(ids), **options)
                if answer.status_code != 404:
                    wrong.append(f"{route.key} {ids}: {answer.status_code} {answer.text[:200]}")
    return wrong


async def strange_cursors(
    asker: Person, mine: Belongings, owner: Person, theirs: Belongings, routes: list[Route]
) -> tuple[int, list[str]]:
    """Asks every list for a page that begins at something of theirs: how many, which answered."""
    asked, wrong = 0, []
    for route in routes:
        if route.method != "GET" or route.path.endswith(("/content", "/events")):
            continue
        own, strange = (each.of(route)[0] for each in (mine, theirs))
        listed = await owner.get(route.at(strange))
        if listed.get("object") != "list":
            continue
        for place in ("after", "before"):
            params = {place: listed["data"][0]["id"]}
            answer = await asker.ask("GET", route.at(own), params=params)
            asked += 1
            if answer.status_code != 400:
                wrong.append(f"{route.key}?{place}: {answer.status_code} {answer.text[:200]}")
    return asked, wrong


def test_the_walk_fails_for_a_route_that_it_does_not_know() -> None:
    with pytest.raises(AssertionError, match="stamp_id"):
        Route("GET", "/v1/files/{file_id}/stamps/{stamp_id}").at({"file_id": "file-1"})


async def test_another_app_reaches_nothing_by_any_route(town: Town) -> None:
    assert {route.path for route in town.routes if not route.names} <= {*LISTS, *CREATES}
    assert len(with_ids(town)) > 40
    before, rows = await view_of(town.shop, town.anns, town.routes), await town.unchanged()
    assert len(before) > 25
    assert await walk(town.eve, town.eves, town.anns, with_ids(town)) == []
    asked, wrong = await strange_cursors(town.eve, town.eves, town.shop, town.anns, town.routes)
    assert (asked >= 18, wrong) == (True, [])
    seen = await view_of(town.eve, town.eves, town.routes)
    theirs = await ids_of(town.gateway.postgres_url, town.shop_id)
    assert len(theirs) > 30
    assert [(path, id_) for path in seen for id_ in theirs if id_.encode() in seen[path]] == []
    assert await town.unchanged() == rows
    assert await view_of(town.shop, town.anns, town.routes) == before


def is_a_users(route: Route) -> bool:
    """Of what an end user has: threads with what is in them, files, uploads."""
    own = ("/v1/threads/", "/v1/files", "/v1/uploads/", "/api/actions")
    return route.path.startswith(own) and route.path not in CREATES[:4]


async def test_another_user_reaches_nothing_of_a_user(town: Town) -> None:
    """The app's key sees the threads, files and uploads of all users."""
    routes = [route for route in town.routes if is_a_users(route) or route.key == "GET /v1/files"]
    bound = [route for route in routes if route.names]
    assert len(bound) >= 24
    assert {"file_id", "upload_id", "thread_id"} <= {name for each in bound for name in each.names}
    before, rows = await view_of(town.ann, town.anns, routes), await town.unchanged()
    lists = {path: before[path] for path in ("/v1/files", "/api/actions")}
    assert before == await view_of(town.shop, town.anns, bound) | lists
    assert await walk(town.bob, town.bobs, town.anns, bound) == []
    asked, wrong = await strange_cursors(town.bob, town.bobs, town.ann, town.anns, routes)
    assert (asked >= 10, wrong) == (True, [])
    seen = await view_of(town.bob, town.bobs, routes)
    anns = await ids_of(town.gateway.postgres_url, town.shop_id, "ann")
    assert anns >= {town.anns.done["file_id"], town.anns.done["upload_id"]}
    assert len(anns) > 13
    assert [(path, id_) for path in seen for id_ in anns if id_.encode() in seen[path]] == []
    assert await town.unchanged() == rows


async def test_an_end_user_changes_nothing_of_the_app(town: Town) -> None:
    """Assistants are there to be run, vector stores not even to be seen."""
    rows, asked = await town.unchanged(), 0
    for route in town.routes:
        if not route.path.startswith(("/v1/assistants", "/v1/vector_stores")):
            continue
        ids = town.anns.done
        options = body_for(route, town.anns, town.anns) if route.names else {"json": {}}
        if route.method == "GET" and not route.names:
            options = {}
        answer = await town.ann.ask(route.method, route.at(ids), **options)
        asked += 1
        if route.method == "GET" and route.path.startswith("/v1/assistants"):
            assert (await town.shop.ask("GET", route.at(ids))).text == answer.text
            assert answer.status_code == 200
            continue
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (403, "not_allowed"), route.key
        assert error["message"].startswith("An end user's token may not "), route.key
        assert error["message"].endswith("; use a key of the app."), route.key
    assert asked >= 20
    assert await town.unchanged() == rows


async def test_the_same_requests_find_what_is_ones_own(town: Town) -> None:
    """So that no 404 above is one of a wrong address."""
    posts = [route for route in with_ids(town) if route.method == "POST"]
    deletes = [route for route in with_ids(town) if route.method == "DELETE"]
    for route in [*posts, *sorted(deletes, key=lambda route: -len(route.path))]:
        for ids in town.eves.of(route):
            options = body_for(route, town.eves, town.eves)
            answer = await town.eve.ask(route.method, route.at(ids), **options)
            assert answer.status_code in (200, 400), (route.key, answer.text)
            if route.method == "DELETE":
                assert answer.status_code == 200, (route.key, answer.text)


def with_file(file: str, *, searched: bool) -> Json:
    tools = [{"type": "file_search"}] if searched else []
    attached = {"file_id": file, "tools": tools}
    return {"role": "user", "content": "x", "attachments": [attached]}


def named_in_bodies(mine: Ids, theirs: Ids) -> list[tuple[str, Json]]:
    """Every place of a body where the id of something can stand that is an app's."""
    assistant, file = theirs["assistant_id"], theirs["file_id"]
    search: Callable[[Json], Json] = lambda told: {"tool_resources": {"file_search": told}}  # noqa: E731
    stores = search({"vector_store_ids": [theirs["vector_store_id"]]})
    inline = search({"vector_stores": [{"file_ids": [file]}]})
    thread, store = (
        f"/v1/threads/{mine['thread_id']}",
        f"/v1/vector_stores/{mine['vector_store_id']}",
    )
    messages = [with_file(file, searched=False), with_file(file, searched=True)]
    own = {"assistant_id": mine["assistant_id"]}
    new = {"model": "fake", "tools": [{"type": "file_search"}]}
    said = {"messages": [{"role": "user", "content": "x"}]}
    return [
        (f"{thread}/runs", {"assistant_id": assistant}),
        ("/v1/threads/runs", {"assistant_id": assistant, "thread": {"messages": []}}),
        ("/v1/threads/runs", own | {"thread": stores}),
        ("/v1/threads/runs", own | {"thread": inline}),
        ("/v1/threads/runs", own | {"thread": {}} | stores),
        *(("/v1/threads/runs", own | {"thread": {"messages": [each]}}) for each in messages),
        *((f"{thread}/runs", own | {"additional_messages": [each]}) for each in messages),
        *((f"{thread}/messages", each) for each in messages),
        *(("/v1/threads", {"messages": [each]}) for each in messages),
        *(("/v1/threads", each) for each in (stores, inline)),
        (thread, stores),
        *(("/v1/assistants", new | each) for each in (stores, inline)),
        (f"/v1/assistants/{mine['assistant_id']}", stores),
        ("/v1/vector_stores", {"file_ids": [file]}),
        ("/v1/vector_stores", {"file_ids": [mine["file_id"], file]}),
        (f"{store}/files", {"file_id": file}),
        (f"{store}/file_batches", {"file_ids": [mine["file_id"], file]}),
        (f"{store}/file_batches", {"files": [{"file_id": file}]}),
        ("/api/messages/process", said | {"threadId": theirs["thread_id"]}),
        ("/api/messages/process", said | {"thread_id": theirs["thread_id"]}),
        ("/api/messages/process", said | {"assistantId": assistant}),
    ]


def _renamed(text: str, old: Ids, new: Ids) -> str:
    for name, id_ in old.items():
        text = text.replace(id_, new[name])
    return text


async def test_a_body_names_nothing_of_another_app(town: Town) -> None:
    """The answer is the one for an id that nobody has."""
    rows = await town.unchanged()
    mine, theirs = town.eves.done, town.anns.done
    nobodys = {name: id_[:-4] + "none" for name, id_ in theirs.items()}
    for (path, body), (_, unknown) in zip(
        named_in_bodies(mine, theirs), named_in_bodies(mine, nobodys), strict=True
    ):
        answer = await town.eve.ask("POST", path, json=body)
        assert answer.status_code in (400, 404), (path, body, answer.text)
        assert any(id_ in answer.text for id_ in theirs.values()), (path, body, answer.text)
        nothing = await town.eve.ask("POST", path, json=unknown)
        assert (answer.status_code, answer.text) == (
            nothing.status_code,
            _renamed(nothing.text, nobodys, theirs),
        )
    upload = f"/v1/uploads/{mine['upload_id']}/complete"
    answer = await town.eve.ask("POST", upload, json={"part_ids": [town.anns.part_id]})
    assert answer.status_code == 400
    waiting = town.eves.waiting
    path = f"/v1/threads/{waiting['thread_id']}/runs/{waiting['run_id']}/submit_tool_outputs"
    outputs = [{"tool_call_id": town.anns.tool_call_id, "output": "x"}]
    assert (await town.eve.ask("POST", path, json={"tool_outputs": outputs})).status_code == 400
    messages = f"/v1/threads/{mine['thread_id']}/messages"
    assert (await town.eve.get(messages, params={"run_id": theirs["run_id"]}))["data"] == []
    assert (await town.eve.get(messages, params={"run_id": mine["run_id"]}))["data"] != []
    for ids in (town.anns.waiting, town.anns.done):
        params = {"thread_id": ids["thread_id"]}
        assert (await town.eve.get("/api/actions", params=params))["data"] == []
        assert (await town.bob.get("/api/actions", params=params))["data"] == []
    assert await town.unchanged() == rows


async def test_a_body_names_nothing_of_another_user(town: Town) -> None:
    """Nor what is the app's, but for its assistants."""
    mine, theirs = town.bobs.done, dict(town.anns.done)
    made = await town.ann.get(f"/v1/threads/{theirs['thread_id']}")
    (anns_store,) = made["tool_resources"]["file_search"]["vector_store_ids"]
    form: Json = {"files": {"file": ("app.txt", b"the app's")}, "data": {"purpose": "assistants"}}
    of_the_app = (await town.shop.post("/v1/files", **form))["id"]
    rows, refused = await town.unchanged(), 0
    for store, file in (
        (theirs["vector_store_id"], theirs["file_id"]),
        (anns_store, of_the_app),
        (town.eves.done["vector_store_id"], town.eves.done["file_id"]),
    ):
        named = theirs | {"vector_store_id": store, "file_id": file}
        nobodys = {name: id_[:-4] + "none" for name, id_ in named.items()}
        for (path, body), (_, unknown) in zip(
            named_in_bodies(mine, named), named_in_bodies(mine, nobodys), strict=True
        ):
            if theirs["assistant_id"] in (body.get("assistant_id"), body.get("assistantId")):
                continue
            answer = await town.bob.ask("POST", path, json=body)
            nothing = await town.bob.ask("POST", path, json=unknown)
            told = (nothing.status_code, _renamed(nothing.text, nobodys, named))
            assert (answer.status_code, answer.text) == told, (path, body)
            is_the_apps = path.startswith(("/v1/assistants", "/v1/vector_stores"))
            assert answer.status_code in ((403,) if is_the_apps else (400, 404)), (path, body)
            refused += 1
    assert refused > 60
    for ids in (town.anns.done, town.anns.said):
        body = {"messages": [{"content": "x"}], "threadId": ids["thread_id"]}
        answer = await town.bob.ask("POST", "/api/messages/process", json=body)
        assert answer.status_code == 404
    assert await town.unchanged() == rows


async def test_a_user_works_with_what_is_its_own(town: Town) -> None:
    """Its files in its threads, searched by the app's assistant; the stores of its threads."""
    ids = town.anns.done
    spare = town.anns.attached_file_id
    attached = {"messages": [with_file(ids["file_id"], searched=True)]}
    thread = await town.ann.post("/v1/threads", attached)
    stores = thread["tool_resources"]["file_search"]["vector_store_ids"]
    path = f"/v1/threads/{thread['id']}"
    await town.ann.post(f"{path}/messages", with_file(spare, searched=True))
    again = await town.ann.post(path, {"tool_resources": thread["tool_resources"]})
    assert again["tool_resources"] == thread["tool_resources"]
    assert (await town.bob.ask("GET", path)).status_code == 404
    await settled(town.gateway)
    (row,) = await town.gateway.rows("select * from vector_stores where id = $1", stores[0])
    assert row["user_name"] == "ann"
    files = (await town.shop.get(f"/v1/vector_stores/{stores[0]}/files"))["data"]
    assert {(each["id"], each["status"]) for each in files} == {
        (ids["file_id"], "completed"),
        (spare, "completed"),
    }
    found, _ = await searched(town, town.ann, ids, ANNS, thread["id"])
    assert ANNS in found
    listed = {each["id"] for each in (await town.ann.get("/v1/files"))["data"]}
    assert listed == {ids["file_id"], spare}
    assert listed < {each["id"] for each in (await town.shop.get("/v1/files"))["data"]}


async def test_the_apps_store_in_a_users_thread_takes_no_file_of_the_user(town: Town) -> None:
    """The app may let a user's thread search in its own; what the user attaches stays outside."""
    ids = town.anns.done
    path = f"/v1/threads/{ids['thread_id']}"
    resources = {"file_search": {"vector_store_ids": [ids["vector_store_id"]]}}
    await town.shop.post(path, {"tool_resources": resources})
    rows = await town.unchanged()
    message = with_file(town.anns.attached_file_id, searched=True)
    answer = await town.ann.ask("POST", f"{path}/messages", json=message)
    assert answer.status_code == 404
    assert ids["vector_store_id"] in answer.text
    assert await town.unchanged() == rows


async def test_a_key_may_speak_for_a_user_with_all_that_the_app_has(town: Town) -> None:
    told = {"messages": [{"role": "user", "content": "x"}], "userId": "ann"}
    body = told | {"assistantId": town.bobs.done["assistant_id"]}
    said = await town.shop.ask("POST", "/api/messages/process", json=body)
    assert said.text.endswith("data: [DONE]\n\n"), said.text
    thread = json.loads(said.text.split("\n", 1)[0].removeprefix("data: "))["thread_id"]
    assert (await town.ann.get(f"/v1/threads/{thread}"))["id"] == thread
    assert (await town.bob.ask("GET", f"/v1/threads/{thread}")).status_code == 404


async def searched(
    town: Town, person: Person, ids: Ids, question: str, thread_id: str | None = None
) -> tuple[str, Json]:
    """What a run tells its model of the files, and the step of that."""
    call = {"name": "file_search", "arguments": json.dumps({"query": question})}
    town.gateway.engine.obey(calls=[call])
    if thread_id is None:
        body = {"messages": [{"role": "user", "content": "where?"}]}
        thread_id = (await person.post("/v1/threads", body))["id"]
    path = f"/v1/threads/{thread_id}/runs"
    run = await person.post(path, {"assistant_id": ids["assistant_id"]})
    async with asyncio.timeout(10):
        while (await person.get(f"{path}/{run['id']}"))["status"] != "completed":
            await asyncio.sleep(0.02)
    told = town.gateway.engine.bodies[-1]["messages"][-1]
    assert told["role"] == "tool"
    steps = await person.get(f"{path}/{run['id']}/steps", params={"order": "asc"})
    return told["content"], steps["data"][0]


async def test_a_search_finds_and_cites_nothing_of_another_app(town: Town) -> None:
    found, step = await searched(town, town.ann, town.anns.done, ANNS)
    assert ANNS in found
    found, step = await searched(town, town.eve, town.eves.done, ANNS)
    assert EVES in found
    assert "Walnut" not in found
    results = step["step_details"]["tool_calls"][0]["file_search"]["results"]
    assert {each["file_id"] for each in results} == {town.eves.done["file_id"]}
    path = f"/v1/vector_stores/{town.eves.done['vector_store_id']}/search"
    page = await town.eve.post(path, {"query": ANNS, "max_num_results": 50})
    assert {each["file_id"] for each in page["data"]} == {town.eves.done["file_id"]}
