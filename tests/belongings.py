"""One of everything that an app can have, and the routes that name some of it."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import asyncpg
import httpx

from tests.fake_engine import FakeEngine
from tests.run_homes import CALL, WEATHER

Json = dict[str, Any]
Ids = Mapping[str, str]

FAMILIES = (
    *("/v1/assistants", "/v1/threads", "/v1/files", "/v1/uploads", "/v1/vector_stores", "/api/"),
)
UNSTEADY = ("usage", "job_counts", "job_workers", "app_credentials", "schema_migrations")
"""Tables, or the beginnings of their names, that change by themselves."""

FINAL = ("completed", "failed", "cancelled", "expired", "incomplete")


@dataclass(frozen=True)
class Route:
    """A path of the gateway, with the names of its parameters in it."""

    method: str
    path: str

    @property
    def names(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"

    def at(self, ids: Ids) -> str:
        """Fails where the path has a parameter that nobody here knows."""
        unknown = set(self.names) - set(ids)
        assert not unknown, f"{self.key} has parameters that this test does not know: {unknown}"
        return self.path.format_map(ids)


async def routes_of(http: httpx.AsyncClient) -> list[Route]:
    """Every route for what is kept, as the gateway itself documents them."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    return [
        Route(method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path.startswith(FAMILIES)
    ]


@dataclass(frozen=True)
class Person:
    """Somebody with a key or a token."""

    http: httpx.AsyncClient
    secret: str

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secret}"}
        return await self.http.request(method, path, headers=headers, **options)

    async def get(self, path: str, **options: Any) -> Any:
        return self._told(await self.ask("GET", path, **options))

    async def post(self, path: str, body: Json | None = None, **options: Any) -> Any:
        if body is not None:
            options["json"] = body
        return self._told(await self.ask("POST", path, **options))

    @staticmethod
    def _told(answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


@dataclass(frozen=True)
class Belongings:
    """Ids by the names of the routes' parameters: `done` with a run that has ended, `waiting` with
    one whose call (`tool_call_id`) is pending, `said` a thread of the conversation endpoint.
    """

    done: Ids
    waiting: Ids
    said: Ids
    part_id: str
    tool_call_id: str
    attached_file_id: str

    def of(self, route: Route) -> list[Ids]:
        """The ids to try a route with."""
        return [self.done, self.waiting] if "thread_id" in route.names else [self.done]


async def furnish(
    person: Person, engine: FakeEngine, words: str, app: Person | None = None
) -> Belongings:
    """Make it all; `words` is what the files say, and nobody else's do. For an end user, `app` has
    the key that makes what is the app's.
    """
    app = app or person
    made: Json = {}
    file = {"file": (f"{words[:6]}.txt", words.encode())}
    for name in ("file_id", "spare"):
        told = await person.post("/v1/files", files=file, data={"purpose": "assistants"})
        made[name] = told["id"]
    new = {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}
    made["upload_id"] = (await person.post("/v1/uploads", new))["id"]
    parts = f"/v1/uploads/{made['upload_id']}/parts"
    part = (await person.post(parts, files={"data": b"part"}))["id"]
    made["vector_store_id"] = (await app.post("/v1/vector_stores", {"name": words[:6]}))["id"]
    batches = f"/v1/vector_stores/{made['vector_store_id']}/file_batches"
    made["batch_id"] = (await app.post(batches, {"file_ids": [made["file_id"]]}))["id"]
    await _until(app, f"{batches}/{made['batch_id']}", "completed")
    search = {"file_search": {"vector_store_ids": [made["vector_store_id"]]}}
    assistant = {
        "model": "fake",
        "tools": [WEATHER, {"type": "file_search"}],
        "tool_resources": search,
    }
    made["assistant_id"] = (await app.post("/v1/assistants", assistant))["id"]
    engine.obey(calls=[CALL])
    done, call = await _waiting_run(person, made)
    await _submit(person, done, call)
    waiting, call = await _waiting_run(person, made)
    engine.obey()
    said = await person.ask(
        "POST", "/api/messages/process", json={"messages": [{"role": "user", "content": words}]}
    )
    assert said.text.endswith("data: [DONE]\n\n"), said.text
    first: Ids = json.loads(said.text.split("\n", 1)[0].removeprefix("data: "))
    return Belongings(done, waiting, dict(made) | dict(first), part, call, made["spare"])


async def _waiting_run(person: Person, made: Json) -> tuple[Json, str]:
    """A thread with a message and a run that waits for an output; the call's id."""
    resources = {"file_search": {"vector_stores": [{"file_ids": [made["spare"]]}]}}
    thread = (await person.post("/v1/threads", {"tool_resources": resources}))["id"]
    path = f"/v1/threads/{thread}"
    message = {
        "role": "user",
        "content": "hello",
        "attachments": [{"file_id": made["spare"], "tools": []}],
    }
    message_id = (await person.post(f"{path}/messages", message))["id"]
    run = (await person.post(f"{path}/runs", {"assistant_id": made["assistant_id"]}))["id"]
    waits = await _until(person, f"{path}/runs/{run}", "requires_action")
    (call,) = waits["required_action"]["submit_tool_outputs"]["tool_calls"]
    steps = (await person.get(f"{path}/runs/{run}/steps"))["data"]
    here = {"thread_id": thread, "message_id": message_id, "run_id": run, "step_id": steps[0]["id"]}
    return made | here, call["id"]


async def _submit(person: Person, ids: Ids, call: str) -> None:
    path = f"/v1/threads/{ids['thread_id']}/runs/{ids['run_id']}"
    outputs = {"tool_outputs": [{"tool_call_id": call, "output": "sunny"}]}
    await person.post(f"{path}/submit_tool_outputs", outputs)
    await _until(person, path, "completed")


async def _until(person: Person, path: str, status: str) -> Json:
    async with asyncio.timeout(20):
        while True:
            told: Json = await person.get(path)
            if told["status"] == status:
                return told
            assert told["status"] not in FINAL, told
            await asyncio.sleep(0.02)


def mixtures(names: Sequence[str], mine: Ids, theirs: Ids) -> Iterator[Ids]:
    """All ways to name at least one thing of theirs."""
    for whose in product((mine, theirs), repeat=len(names)):
        if any(each is theirs for each in whose):
            yield {name: ids[name] for name, ids in zip(names, whose, strict=True)}


def body_for(route: Route, mine: Belongings, theirs: Belongings) -> Json:
    """How a client would ask it rightly, as options of a request. What else it names is `mine`; a
    call and a part belong to what the path names.
    """
    ids = mine.done
    bodies: Mapping[str, Json] = {
        "/v1/assistants/{assistant_id}": {"name": "changed"},
        "/v1/threads/{thread_id}": {"metadata": {"changed": "yes"}},
        "/v1/threads/{thread_id}/messages": {"role": "user", "content": "changed"},
        "/v1/threads/{thread_id}/messages/{message_id}": {"metadata": {"changed": "yes"}},
        "/v1/threads/{thread_id}/runs": {"assistant_id": ids["assistant_id"]},
        "/v1/threads/{thread_id}/runs/{run_id}": {"metadata": {"changed": "yes"}},
        "/v1/threads/{thread_id}/runs/{run_id}/cancel": {},
        "/v1/threads/{thread_id}/runs/{run_id}/resume": {},
        "/v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs": {
            "tool_outputs": [{"tool_call_id": theirs.tool_call_id, "output": "changed"}]
        },
        "/v1/uploads/{upload_id}/complete": {"part_ids": [theirs.part_id]},
        "/v1/uploads/{upload_id}/cancel": {},
        "/v1/vector_stores/{vector_store_id}": {"name": "changed"},
        "/v1/vector_stores/{vector_store_id}/search": {"query": "changed"},
        "/v1/vector_stores/{vector_store_id}/files": {"file_id": ids["file_id"]},
        "/v1/vector_stores/{vector_store_id}/files/{file_id}": {"attributes": {"changed": "yes"}},
        "/v1/vector_stores/{vector_store_id}/file_batches": {"file_ids": [ids["file_id"]]},
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel": {},
    }
    if route.method != "POST":
        return {}
    if route.path == "/v1/uploads/{upload_id}/parts":
        return {"files": {"data": b"more"}}
    assert route.path in bodies, f"what would a client send to {route.key}?"
    return {"json": bodies[route.path]}


async def everything(postgres_url: str) -> Mapping[str, list[str]]:
    """All rows of all tables that do not change by themselves."""
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = await connection.fetch(
            "select tablename as name from pg_tables where schemaname = 'public' order by 1"
        )
        return {
            table["name"]: [str(row) for row in await connection.fetch(_all_of(table["name"]))]
            for table in tables
            if not table["name"].startswith(UNSTEADY)
        }
    finally:
        await connection.close()


def _all_of(table: str) -> str:
    return f'select * from "{table}" as t order by t::text'  # a name out of PostgreSQL's own list


async def ids_of(postgres_url: str, app_id: str, user: str | None = None) -> set[str]:
    """Of everything that an app has; with `user` of that user's threads and what is in them, and
    of the user's files and uploads.
    """
    connection = await asyncpg.connect(postgres_url)
    tables: tuple[str, ...] = ("threads", "messages", "runs", "run_steps", "actions")
    tables += ("files", "uploads")
    if user is None:
        tables += ("assistants", "vector_stores", "vector_store_batches")
    try:
        found: set[str] = set()
        for table in tables:
            column = "id" if table == "threads" else "thread_id"
            whose = f"{column} in (select id from threads where user_name = $2)"
            if table in ("files", "uploads"):
                whose = "user_name = $2"
            query = f"select id from {table} where app_id = $1 and ($2::text is null or "
            query += f"{whose})" if user is not None else "true)"
            found.update(row["id"] for row in await connection.fetch(query, app_id, user))
        return found
    finally:
        await connection.close()
