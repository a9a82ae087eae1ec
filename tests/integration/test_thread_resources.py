"""What threads ask of vector stores and of runs: the real tables, the neighbours recorded."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from api_server.errors import InvalidRequestError, NotFoundError
from api_server.schemas.apps import App, Caller, Policy
from api_server.schemas.assistants import InlineStore
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.threads import ThreadService
from api_server.stores.postgres import Connection, Postgres
from api_server.stores.threads import ThreadStore
from tests.assistants import begin_run

SHOP = Caller(App("app_shop", "shop", Policy()))
FILE = (
    "insert into files (id, app_id, filename, purpose, content_type, bytes, digest) "
    "values ($1, $2, 'a.md', 'assistants', 'text/markdown', 1, '')"
)


@dataclass
class Recorded:
    """Vector stores that are a row and nothing more."""

    made: list[tuple[list[str], int | None]] = field(default_factory=list)
    added: list[tuple[str, list[str]]] = field(default_factory=list)

    async def make(
        self,
        connection: Connection,
        caller: Caller,
        wish: InlineStore,
        *,
        user: str | None,
        expires_after_days: int | None,
    ) -> str:
        self.made.append((list(wish.file_ids), expires_after_days))
        id_ = f"vs_{len(self.made)}"
        await connection.execute(
            "insert into vector_stores (id, app_id, user_name) values ($1, $2, $3)",
            *(id_, caller.app.id, user),
        )
        return id_

    async def add(
        self,
        connection: Connection,  # noqa: ARG002
        caller: Caller,  # noqa: ARG002
        vector_store_id: str,
        file_ids: Sequence[str],
    ) -> None:
        self.added.append((vector_store_id, list(file_ids)))


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Postgres]:
    postgres = Postgres(postgres_url)
    for id_ in ("file-a", "file-b"):
        await postgres.execute(FILE, id_, SHOP.app.id)
    yield postgres
    await postgres.aclose()


async def never(_connection: Connection, _thread_id: str) -> None:
    raise AssertionError("nobody deletes a thread here")


def plain(answer: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(answer))


def message(*file_ids: str) -> dict[str, Any]:
    tools = [{"type": "file_search"}]
    attachments = [{"file_id": each, "tools": tools} for each in file_ids]
    return {"role": "user", "content": "hi", "attachments": attachments}


async def test_attached_files_come_into_the_thread_s_vector_store(postgres: Postgres) -> None:
    stores = Recorded()
    service = ThreadService(ThreadStore(postgres), Resources(stores), never)
    body = msgspec.json.encode({"messages": [message("file-a", "file-b"), message("file-a")]})
    thread = plain(await service.create(SHOP, body))
    assert stores.made == [(["file-a", "file-b"], 7)]
    assert thread["tool_resources"] == {"file_search": {"vector_store_ids": ["vs_1"]}}
    more = msgspec.json.encode(message("file-b"))
    said = plain(await service.add_message(SHOP, thread["id"], more))
    assert stores.added == [("vs_1", ["file-b"])]
    attached = [{"file_id": "file-b", "tools": [{"type": "file_search"}]}]
    assert said["attachments"] == attached
    lost = msgspec.json.encode(message("file-lost"))
    with pytest.raises(InvalidRequestError, match="file-lost"):
        await service.add_message(SHOP, thread["id"], lost)
    assert len(stores.added) == 1


async def test_a_vector_store_comes_along_and_goes_where_its_thread_fails(
    postgres: Postgres,
) -> None:
    stores = Recorded()
    service = ThreadService(ThreadStore(postgres), Resources(stores), never)
    search = {"vector_stores": [{"file_ids": ["file-a"], "metadata": {"k": "v"}}]}
    body = {"tool_resources": {"file_search": search}}
    thread = plain(await service.create(SHOP, msgspec.json.encode(body)))
    assert stores.made == [(["file-a"], 7)]
    assert thread["tool_resources"] == {"file_search": {"vector_store_ids": ["vs_1"]}}
    lost = [{"file_id": "file-lost", "tools": []}]
    messages = [{"role": "user", "content": "x", "attachments": lost}]
    body["messages"] = messages  # type: ignore[assignment]
    with pytest.raises(InvalidRequestError, match="file-lost"):
        await service.create(SHOP, msgspec.json.encode(body))
    assert len(stores.made) == 2
    assert len(await postgres.fetch("select from vector_stores")) == 1
    assert len(await postgres.fetch("select from threads")) == 1


async def test_runs_of_a_thread_are_stopped_before_it_is_deleted(
    postgres: Postgres, postgres_url: str
) -> None:
    stopped = []

    async def stop(connection: Connection, thread_id: str) -> None:
        rows = await connection.fetch("select id from runs where thread_id = $1", thread_id)
        stopped.append((thread_id, [row["id"] for row in rows]))

    service = ThreadService(ThreadStore(postgres), Resources(Recorded()), stop)
    thread_id = (await service.create(SHOP, b""))["id"]
    await begin_run(postgres_url, SHOP.app.id, thread_id)
    stranger = Caller(App("app_other", "other", Policy()))
    with pytest.raises(NotFoundError):
        await service.delete(stranger, thread_id)
    assert stopped == []
    await service.delete(SHOP, thread_id)
    assert stopped == [(thread_id, ["run_1"])]
    assert await postgres.fetch("select from runs") == []


async def test_a_context_is_the_newest_messages_oldest_first(postgres: Postgres) -> None:
    store = ThreadStore(postgres)
    service = ThreadService(store, Resources(Recorded()), never)
    messages = [{"role": "user", "content": str(n)} for n in range(5)]
    body = msgspec.json.encode({"messages": messages})
    thread_id = (await service.create(SHOP, body))["id"]

    async def texts(app_id: str, **options: int) -> list[str]:
        found = await store.context(app_id, thread_id, **options)
        return [msgspec.json.decode(each.content)[0]["text"]["value"] for each in found]

    assert await texts(SHOP.app.id) == list("01234")
    assert await texts(SHOP.app.id, last=2) == list("34")
    assert await texts("app_other") == []
