"""Assistants: OpenAI's client against a real gateway and PostgreSQL."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.access import Guarded, guarded_gateway
from tests.assistants import SECRET, Kept, client_of, command
from tests.integration.conftest import Stack
from tests.stores import running_postgres

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

FUNCTION = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        "strict": True,
    },
}
SEARCH = {
    "type": "file_search",
    "file_search": {
        "max_num_results": 7,
        "ranking_options": {"ranker": "auto", "score_threshold": 0.5},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "town", "schema": {"type": "object"}, "strict": True},
}


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    variables = {"JWT_SECRET": SECRET}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        yield gateway


@pytest.fixture
async def shop(guarded: Guarded, postgres_url: str) -> AsyncIterator[Kept]:
    async with client_of(guarded, postgres_url) as client:
        yield client


async def test_an_assistant_is_made_with_openai_s_defaults(shop: Kept) -> None:
    made = await shop.assistants.create(model="fake")
    assert made.id.startswith("asst_")
    said = made.to_dict()
    assert abs(said.pop("created_at") - time.time()) < 5
    assert said == {
        "id": made.id,
        "object": "assistant",
        "model": "fake",
        "name": None,
        "description": None,
        "instructions": None,
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
        "reasoning_effort": None,
    }
    assert (await shop.assistants.retrieve(made.id)) == made


async def test_all_of_an_assistant_comes_back(shop: Kept) -> None:
    sent: dict[str, Any] = {
        "model": "fake",
        "name": "n" * 256,
        "description": "ü" * 512,
        "instructions": "i" * 256_000,
        "tools": [FUNCTION, SEARCH, {"type": "file_search"}],
        "metadata": {f"{n:064}": "v" * 512 for n in range(16)},
        "temperature": 0.25,
        "top_p": 0.5,
        "response_format": SCHEMA,
        "reasoning_effort": "low",
    }
    made = (await shop.assistants.create(**sent)).to_dict()
    assert {name: made[name] for name in sent} == sent


async def test_what_is_sent_is_changed_and_nothing_else(shop: Kept) -> None:
    made = await shop.assistants.create(
        model="fake", name="a", instructions="b", tools=[FUNCTION], temperature=0.5
    )
    changed = await shop.assistants.update(made.id, name="c", metadata={"k": "v"})
    assert changed.name == "c"
    assert changed.metadata == {"k": "v"}
    assert changed.created_at == made.created_at
    same = ("instructions", "tools", "temperature", "model", "id")
    assert [getattr(changed, each) for each in same] == [getattr(made, each) for each in same]
    again = await shop.assistants.update(made.id, name=None, temperature=None, tools=[])
    assert (again.name, again.temperature, again.tools) == (None, 1.0, [])
    assert await shop.assistants.retrieve(made.id) == again


async def test_a_deleted_assistant_is_gone(shop: Kept) -> None:
    made = await shop.assistants.create(model="fake")
    said = await shop.assistants.delete(made.id)
    assert (said.id, said.object, said.deleted) == (made.id, "assistant.deleted", True)
    for ask in (shop.assistants.retrieve, shop.assistants.delete, shop.assistants.update):
        with pytest.raises(openai.NotFoundError, match="No assistant found with id"):
            await ask(made.id)


def deep(levels: int, end: str) -> bytes:
    """An assistant with a function whose parameters are lists in lists."""
    nested = "[" * levels + end + "]" * levels
    function = f'{{"name": "f", "parameters": {{"a": {nested}}}}}'
    return (
        f'{{"model": "fake", "tools": [{{"type": "function", "function": {function}}}]}}'.encode()
    )


REFUSED: tuple[tuple[Any, str], ...] = (
    ({}, "model"),
    ({"model": None}, "model"),
    ({"model": "fake", "name": "n" * 257}, "name"),
    ({"model": "fake", "description": "d" * 513}, "description"),
    ({"model": "fake", "instructions": "i" * 256_001}, "instructions"),
    ({"model": "fake", "tools": [FUNCTION] * 129}, "tools"),
    ({"model": "fake", "tools": [{"type": "shell"}]}, "tools[0].type"),
    ({"model": "fake", "tools": [{"type": "function"}]}, "tools[0].function"),
    ({"model": "fake", "tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
    ({"model": "fake", "tools": [{"type": "code_interpreter"}]}, "no sandbox"),
    (
        {"model": "fake", "tool_resources": {"code_interpreter": {"file_ids": []}}},
        "no sandbox",
    ),
    (
        {"model": "fake", "tools": [{**SEARCH, "file_search": {"max_num_results": 51}}]},
        "max_num_results",
    ),
    ({"model": "fake", "metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"model": "fake", "metadata": {"k" * 65: "v"}}, "metadata"),
    ({"model": "fake", "metadata": {"k": "v" * 513}}, "metadata"),
    ({"model": "fake", "metadata": {"k": 1}}, "metadata"),
    ({"model": "fake", "temperature": 2.01}, "temperature"),
    ({"model": "fake", "top_p": -0.1}, "top_p"),
    ({"model": "fake", "response_format": {"type": "yaml"}}, "response_format"),
    ({"model": "fake", "response_format": {"type": "json_schema"}}, "json_schema"),
    ({"model": "fake", "reasoning_effort": "huge"}, "reasoning_effort"),
    ({"model": "fake", "name": "a\0b"}, "name"),
    ({"model": "fake", "metadata": {"a\0": "b"}}, "metadata"),
    (
        {"model": "fake", "tool_resources": {"file_search": {"vector_store_ids": ["a", "b"]}}},
        "vector_store_ids",
    ),
    (
        {"model": "fake", "tool_resources": {"file_search": {"vector_store_ids": ["vs_no"]}}},
        "vs_no",
    ),
    (
        {
            "model": "fake",
            "tool_resources": {"file_search": {"vector_store_ids": [], "vector_stores": []}},
        },
        "not both",
    ),
    (b'{"model": "fake", "name": "\\ud800"}', "JSON"),
    (b'{"model": "fake", "name": "\xff"}', "JSON"),
    (b"[" * 100_000, "JSON"),
    *((deep(depth, end), "nested") for depth in (100, 500) for end in ("1", '"\\u0000"')),
    (b"null", "object"),
    (b"", "JSON"),
)


async def test_what_cannot_be_is_refused(shop: Kept) -> None:
    for body, words in REFUSED:
        status, message = await shop.refusal("POST", "/v1/assistants", body)
        assert status == 400
        assert words in message, (message, words)


async def test_the_model_must_be_one_for_text_that_the_app_may_use(
    guarded: Guarded, postgres_url: str, shop: Kept
) -> None:
    assert (await shop.refusal("POST", "/v1/assistants", {"model": "gpt-9"}))[0] == 404
    made = await shop.assistants.create(model="fake")
    path = f"/v1/assistants/{made.id}"
    assert (await shop.refusal("POST", path, {"model": "gpt-9"}))[0] == 404
    async with client_of(guarded, postgres_url, "narrow", models=["other"]) as narrow:
        assert (await narrow.refusal("POST", "/v1/assistants", {"model": "fake"}))[0] == 403


async def test_unknown_fields_are_refused_and_the_beta_header_is_not_needed(shop: Kept) -> None:
    for headers in ({}, {"openai-beta": "assistants=v2"}):
        made = await shop.http.post("/v1/assistants", json={"model": "fake"}, headers=headers)
        assert made.status_code == 200
        answer = await shop.http.post(
            "/v1/assistants", json={"model": "fake", "color": "red"}, headers=headers
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "color")


async def test_a_vector_store_of_the_app_can_be_named(
    shop: Kept, guarded: Guarded, postgres_url: str
) -> None:
    insert = "insert into vector_stores (id, app_id) values ($1, $2)"
    await command(postgres_url, insert, "vs_mine", shop.app.app.id)
    resources = {"file_search": {"vector_store_ids": ["vs_mine"]}}
    made = await shop.assistants.create(model="fake", tool_resources=resources)
    assert json.loads(made.to_json())["tool_resources"] == resources
    cleared = await shop.assistants.update(made.id, tool_resources=None)
    assert cleared.to_dict()["tool_resources"] == {}
    async with client_of(guarded, postgres_url, "other") as other:
        body = {"model": "fake", "tool_resources": resources}
        assert (await other.refusal("POST", "/v1/assistants", body))[0] == 400


async def test_two_changes_at_once_are_both_kept(shop: Kept) -> None:
    made = await shop.assistants.create(model="fake")
    await asyncio.gather(
        shop.assistants.update(made.id, name="n"),
        shop.assistants.update(made.id, description="d"),
        shop.assistants.update(made.id, instructions="i"),
    )
    now = await shop.assistants.retrieve(made.id)
    assert (now.name, now.description, now.instructions) == ("n", "d", "i")


async def test_without_a_database_they_are_a_503_that_says_what_is_missing(stack: Stack) -> None:
    with pytest.raises(openai.InternalServerError, match="POSTGRES_URL") as failed:
        await stack.client.beta.assistants.list()
    assert failed.value.status_code == 503
    assert failed.value.response.headers["retry-after"] == "60"


async def test_while_the_database_hangs_they_are_a_503_in_time(tmp_path: Path) -> None:
    with running_postgres() as server, server.database() as url:
        async with (
            guarded_gateway(tmp_path, url) as guarded,
            client_of(guarded, url) as shop,
        ):
            made = await shop.assistants.create(model="fake")
            server.pause()
            try:
                async with asyncio.timeout(5):
                    path = f"/v1/assistants/{made.id}"
                    assert (await shop.refusal("GET", path))[0] == 503
                    assert (await shop.refusal("POST", "/v1/threads", {}))[0] == 503
            finally:
                server.resume()
