"""Threads and messages: OpenAI's client against a real gateway and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.access import Guarded, guarded_gateway
from tests.assistants import Kept, begin_run, client_of, command

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

TEXT = {"type": "text", "text": {"value": "hi", "annotations": []}}
FILE = (
    "insert into files (id, app_id, filename, purpose, content_type, bytes, digest) "
    "values ($1, $2, 'a.png', 'vision', 'image/png', 1, '')"
)


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        yield gateway


@pytest.fixture
async def shop(guarded: Guarded, postgres_url: str) -> AsyncIterator[Kept]:
    async with client_of(guarded, postgres_url) as client:
        yield client


async def listed(shop: Kept, thread_id: str, **options: Any) -> list[str]:
    """The texts of a page of messages."""
    page = await shop.threads.messages.list(thread_id, **options)
    return [message.content[0].text.value for message in page.data]


async def test_a_thread_s_life(shop: Kept, postgres_url: str) -> None:
    empty = await shop.threads.create()
    assert empty.id.startswith("thread_")
    assert (empty.metadata, empty.to_dict()["tool_resources"]) == ({}, {})
    assert await listed(shop, empty.id) == []
    made = await shop.threads.create(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        metadata={"k": "v"},
    )
    assert await listed(shop, made.id, order="asc") == ["a", "b"]
    assert await shop.threads.retrieve(made.id) == made
    changed = await shop.threads.update(made.id, metadata={"k": "w"})
    assert (changed.metadata, changed.created_at) == ({"k": "w"}, made.created_at)
    assert await shop.threads.update(made.id) == changed
    assert (await shop.threads.update(made.id, metadata=None)).metadata == {}
    said = await shop.threads.delete(made.id)
    assert (said.id, said.object, said.deleted) == (made.id, "thread.deleted", True)
    with pytest.raises(openai.NotFoundError, match="No thread found with id"):
        await shop.threads.retrieve(made.id)
    left = "select count(*) as n from messages where thread_id = $1"
    assert (await command(postgres_url, left, made.id))[0]["n"] == 0


async def test_a_message_s_life(shop: Kept) -> None:
    thread = await shop.threads.create()
    made = await shop.threads.messages.create(thread.id, role="user", content="hi")
    assert made.to_dict() == {
        "id": made.id,
        "object": "thread.message",
        "created_at": made.created_at,
        "thread_id": thread.id,
        "assistant_id": None,
        "run_id": None,
        "status": "completed",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None,
        "role": "user",
        "content": [TEXT],
        "attachments": [],
        "metadata": {},
    }
    assert await shop.threads.messages.retrieve(made.id, thread_id=thread.id) == made
    changed = await shop.threads.messages.update(
        made.id, thread_id=thread.id, metadata={"é": "\N{SNOWMAN}"}
    )
    assert changed.metadata == {"é": "\N{SNOWMAN}"}
    assert changed.content == made.content
    said = await shop.threads.messages.delete(made.id, thread_id=thread.id)
    assert (said.id, said.object, said.deleted) == (made.id, "thread.message.deleted", True)
    for ask in ("retrieve", "delete", "update"):
        with pytest.raises(openai.NotFoundError, match="No message found with id"):
            await getattr(shop.threads.messages, ask)(made.id, thread_id=thread.id)


async def test_parts_come_back_as_they_were_sent(shop: Kept, postgres_url: str) -> None:
    await command(postgres_url, FILE, "file-1", shop.app.app.id)
    thread = await shop.threads.create()
    made = await shop.threads.messages.create(
        thread.id,
        role="user",
        content=[
            {"type": "text", "text": "hi"},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        ],
        attachments=[{"file_id": "file-1", "tools": []}],
    )
    said = made.to_dict()
    assert said["content"] == [
        TEXT,
        {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "auto"}},
    ]
    assert said["attachments"] == [{"file_id": "file-1", "tools": []}]


async def test_pages_go_both_ways_and_ties_keep_their_order(shop: Kept, postgres_url: str) -> None:
    thread = await shop.threads.create(
        messages=[{"role": "user", "content": str(n)} for n in range(7)]
    )
    await command(postgres_url, "update messages set created_at = now()")  # all at one instant
    pages = shop.threads.messages
    assert await listed(shop, thread.id) == list("6543210")
    first = await pages.list(thread.id, limit=3, order="asc")
    assert (first.has_more, [each.content[0].text.value for each in first.data]) == (
        True,
        list("012"),
    )
    ids = {
        each.content[0].text.value: each.id
        for each in (await pages.list(thread.id, limit=100)).data
    }
    assert await listed(shop, thread.id, limit=3, after=ids["4"]) == list("321")
    assert await listed(shop, thread.id, limit=3, after=ids["1"]) == ["0"]
    assert await listed(shop, thread.id, limit=3, before=ids["1"]) == list("432")
    assert await listed(shop, thread.id, limit=3, order="asc", before=ids["4"]) == list("123")
    assert await listed(shop, thread.id, after=ids["5"], before=ids["2"]) == list("43")
    assert await listed(shop, thread.id, limit=1, after=ids["5"], before=ids["2"]) == ["4"]
    assert await listed(shop, thread.id, after=ids["0"]) == []
    walked = [m.content[0].text.value async for m in pages.list(thread.id, limit=2, order="asc")]
    assert walked == list("0123456")
    for query in ("after=msg_no", "before=msg_no", "limit=0", "limit=101", "order=up", "after=%00"):
        path = f"/v1/threads/{thread.id}/messages?{query}"
        assert (await shop.refusal("GET", path))[0] == 400
    other = await shop.threads.create(messages=[{"role": "user", "content": "x"}])
    assert (await shop.refusal("GET", f"/v1/threads/{other.id}/messages?after={ids['1']}"))[
        0
    ] == 400


async def test_messages_of_one_run_are_listed(shop: Kept, postgres_url: str) -> None:
    thread = await shop.threads.create(messages=[{"role": "user", "content": str(n)} for n in "ab"])
    await command(
        postgres_url, "update messages set run_id = 'run_1' where content::text ~ '\"b\"'"
    )
    assert await listed(shop, thread.id, run_id="run_1") == ["b"]
    assert await listed(shop, thread.id, run_id="run_2") == []


async def test_while_a_run_is_active_messages_wait(shop: Kept, postgres_url: str) -> None:
    thread = await shop.threads.create(messages=[{"role": "user", "content": "a"}])
    await begin_run(postgres_url, shop.app.app.id, thread.id)
    with pytest.raises(openai.BadRequestError) as failed:
        await shop.threads.messages.create(thread.id, role="user", content="hi")
    words = f"Can't add messages to {thread.id} while a run run_1 is active."
    assert failed.value.body["message"] == words  # type: ignore[index]
    assert await listed(shop, thread.id) == ["a"]
    message = (await shop.threads.messages.list(thread.id)).data[0]
    await shop.threads.messages.update(message.id, thread_id=thread.id, metadata={"k": "v"})
    await command(postgres_url, "update messages set run_id = 'run_1'")
    with pytest.raises(openai.BadRequestError, match="while a run run_1 is active"):
        await shop.threads.messages.delete(message.id, thread_id=thread.id)
    await command(postgres_url, "update runs set status = 'completed'")
    await shop.threads.messages.create(thread.id, role="user", content="hi")
    await shop.threads.delete(thread.id)
    assert await command(postgres_url, "select * from runs") == []


async def test_a_message_and_a_run_never_come_at_the_same_time(
    shop: Kept, postgres_url: str
) -> None:
    """Whoever creates a run locks the thread's row, and so does whoever adds a message."""
    app_id = shop.app.app.id
    for number in range(20):
        thread = await shop.threads.create()
        begin = (
            "with locked as materialized (select id from threads where id = $1 for no key update) "
            "insert into runs (id, thread_id, app_id, assistant_id, body, job_id, created_at) "
            "select $2, id, $3, 'asst_1', '{}', 'job_1', clock_timestamp() from locked"
        )
        await asyncio.gather(
            *(shop.threads.messages.create(thread.id, role="user", content="x") for _ in range(4)),
            command(postgres_url, begin, thread.id, f"run_{number}", app_id),
            return_exceptions=True,
        )
        late = await command(
            postgres_url,
            "select from messages join runs using (thread_id) "
            "where thread_id = $1 and messages.created_at > runs.created_at",
            thread.id,
        )
        assert late == []


async def test_messages_that_are_added_at_once_have_an_order_that_stays(shop: Kept) -> None:
    thread = await shop.threads.create()
    seen: list[str] = []

    async def follow() -> None:
        while len(seen) < 40:
            after = {"after": seen[-1]} if seen else {}
            page = await shop.threads.messages.list(thread.id, order="asc", **after)
            seen.extend(each.id for each in page.data)

    added: list[str] = []

    async def add() -> None:
        for _ in range(10):
            made = await shop.threads.messages.create(thread.id, role="user", content="x")
            added.append(made.id)

    async with asyncio.timeout(30):
        await asyncio.gather(*(add() for _ in range(4)), follow())
    assert sorted(seen) == sorted(added)


USER = {"role": "user", "content": "hi"}
REFUSED: tuple[tuple[Any, str], ...] = (
    ({}, "role"),
    ({"role": "user"}, "content"),
    ({"role": "system", "content": "x"}, "role"),
    ({"role": "user", "content": ""}, "non-empty"),
    ({"role": "user", "content": []}, "content"),
    ({"role": "user", "content": None}, "content"),
    ({"role": "user", "content": [{"type": "text", "text": ""}]}, "non-empty"),
    ({"role": "user", "content": [{"type": "text", "text": {"value": "x"}}]}, "text"),
    ({"role": "user", "content": [{"type": "audio"}]}, "content[0].type"),
    ({"role": "user", "content": "x" * 256_001}, "content"),
    ({"role": "user", "content": "a\0b"}, "content"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "url"),
    (
        {
            "role": "user",
            "content": [{"type": "image_file", "image_file": {"file_id": "file-no"}}],
        },
        "no model of this stack",
    ),
    (USER | {"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    (USER | {"attachments": [{"tools": []}]}, "file_id"),
    (USER | {"attachments": [{"file_id": "file-no", "tools": []}]}, "file-no"),
    (
        USER | {"attachments": [{"file_id": "a", "tools": [{"type": "code_interpreter"}]}]},
        "no sandbox",
    ),
    (b'{"role": "user", "content": "\\udc00"}', "JSON"),
)
REFUSED_THREADS: tuple[tuple[Any, str], ...] = (
    ({"messages": [USER, {"role": "user"}]}, "messages[1].content"),
    ({"tool_resources": {"code_interpreter": {"file_ids": ["a"]}}}, "no sandbox"),
    ({"tool_resources": {"file_search": {"vector_store_ids": ["vs_no"]}}}, "vs_no"),
    ({"metadata": {"k": "v" * 513}}, "metadata"),
    ({"metadata": []}, "metadata"),
)


async def test_what_cannot_be_is_refused_and_leaves_nothing(shop: Kept, postgres_url: str) -> None:
    thread = await shop.threads.create()
    for body, words in REFUSED:
        status, message = await shop.refusal("POST", f"/v1/threads/{thread.id}/messages", body)
        assert status == 400
        assert words in message, (message, words)
    for body, words in REFUSED_THREADS:
        for path in ("/v1/threads", f"/v1/threads/{thread.id}"):
            if "messages" in body and path != "/v1/threads":
                continue
            status, message = await shop.refusal("POST", path, body)
            assert status == 400
            assert words in message, (message, words)
    status, message = await shop.refusal(
        "POST",
        f"/v1/threads/{thread.id}",
        {"tool_resources": {"file_search": {"vector_stores": [{}]}}},
    )
    assert (status, "only on creation" in message) == (400, True)
    assert await listed(shop, thread.id) == []
    assert len(await command(postgres_url, "select from threads")) == 1


IMAGE = {"type": "image_file", "image_file": {"file_id": "a"}}
CODE = [{"type": "code_interpreter"}]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"content": ""}, "content"),
        (
            {"content": [{"type": "text", "text": "x"}, {"type": "text", "text": ""}]},
            "content[1].text",
        ),
        ({"content": [IMAGE]}, "content[0].image_file"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]},
            "content[0].image_url.url",
        ),
        ({"attachments": [{"file_id": "a", "tools": CODE}]}, "attachments[0].tools"),
        ({"attachments": [{"file_id": "a"}, {"file_id": "b"}]}, "attachments[0].file_id"),
        ({"file_ids": []}, "file_ids"),
    ],
)
async def test_what_is_wrong_is_named_by_its_place(
    shop: Kept, wrong: dict[str, Any], place: str
) -> None:
    assistant = await shop.assistants.create(model="fake")
    thread = await shop.threads.create()
    run = {"assistant_id": assistant.id}
    listed = [USER, USER | wrong]
    for path, body, before in (
        (f"/v1/threads/{thread.id}/messages", USER | wrong, ""),
        ("/v1/threads", {"messages": listed}, "messages[1]."),
        ("/v1/threads/runs", run | {"thread": {"messages": listed}}, "thread.messages[1]."),
        (
            f"/v1/threads/{thread.id}/runs",
            run | {"additional_messages": listed},
            "additional_messages[1].",
        ),
    ):
        answer = await shop.http.post(path, json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == before + place


async def test_ids_that_cannot_be_are_not_found(shop: Kept) -> None:
    thread = await shop.threads.create()
    for id_ in ("thread_no", "%00", "%F0%9F%98%80", "x" * 5000, "%ED%A0%80", "..%2F", "'"):
        assert (await shop.refusal("GET", f"/v1/threads/{id_}/messages"))[0] == 404
        assert (await shop.refusal("GET", f"/v1/threads/{thread.id}/messages/{id_}"))[0] == 404
        assert (await shop.refusal("POST", f"/v1/threads/{id_}/messages", USER))[0] == 404


async def test_without_vector_stores_a_file_cannot_be_searched(
    shop: Kept, postgres_url: str
) -> None:
    await command(postgres_url, FILE, "file-1", shop.app.app.id)
    attached = [{"file_id": "file-1", "tools": [{"type": "file_search"}]}]
    body = {"messages": [USER | {"attachments": attached}]}
    assert (await shop.refusal("POST", "/v1/threads", body))[0] == 503
    assert await command(postgres_url, "select from threads") == []
