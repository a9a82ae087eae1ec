"""Whose assistants, threads and messages they are: two apps, two users of one app, every route."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api_server.routes import assistants as assistant_routes
from api_server.routes import threads as thread_routes
from tests.access import Guarded, guarded_gateway
from tests.assistants import SECRET, Kept, client_of, command, user_of

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

LISTS_OF_OWN = {("GET", "/v1/assistants"), ("POST", "/v1/assistants"), ("POST", "/v1/threads")}
"""They name nothing that could be another's."""

CHANGE = {"metadata": {"by": "a stranger"}}
MESSAGE = {"role": "user", "content": "x"} | CHANGE


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    variables = {"JWT_SECRET": SECRET}
    async with guarded_gateway(tmp_path, postgres_url, variables) as gateway:
        yield gateway


def routes_that_name(*names: str) -> list[tuple[str, str]]:
    """Each method and path of ours with one of these in it."""
    found = []
    for routes in (assistant_routes, thread_routes):
        for route in routes.router.routes:
            path, methods = route.path, route.methods
            if any(f"{{{name}}}" in path for name in names):
                found += [(method, path) for method in methods]
    return sorted(found)


async def all_rows(postgres_url: str) -> list[Any]:
    found = []
    for table in ("assistants", "threads", "messages"):
        found += await command(postgres_url, f"select {table}::text from {table} order by id")
    return found


def test_every_route_names_something_or_is_the_caller_s_own() -> None:
    every = set()
    for routes in (assistant_routes, thread_routes):
        for route in routes.router.routes:
            every |= {(each, route.path) for each in route.methods}
    assert every == {*routes_that_name("assistant_id", "thread_id"), *LISTS_OF_OWN}


async def refuses(stranger: Kept, wanted: list[tuple[str, str]], ids: dict[str, str]) -> None:
    """Nothing of these is there for a stranger."""
    assert wanted
    for method, path in wanted:
        filled = re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], path)
        body = MESSAGE if path.endswith("messages") else CHANGE
        sent = body if method == "POST" else None
        status, message = await stranger.refusal(method, filled, sent)
        assert (status, message[:3]) == (404, "No "), (method, path)


async def test_apps_know_nothing_of_each_other(guarded: Guarded, postgres_url: str) -> None:
    async with (
        client_of(guarded, postgres_url) as shop,
        client_of(guarded, postgres_url, "other") as other,
    ):
        assistant = await shop.assistants.create(model="fake")
        thread = await shop.threads.create(messages=[{"role": "user", "content": "a"}])
        message = (await shop.threads.messages.list(thread.id)).data[0]
        before = await all_rows(postgres_url)
        ids = {"assistant_id": assistant.id, "thread_id": thread.id, "message_id": message.id}
        await refuses(other, routes_that_name(*ids), ids)
        assert (await other.assistants.list()).data == []
        assert (await other.refusal("GET", f"/v1/assistants?after={assistant.id}"))[0] == 400
        own = await other.threads.create()
        path = f"/v1/threads/{own.id}/messages"
        assert (await other.refusal("GET", f"{path}?after={message.id}"))[0] == 400
        await refuses(other, [("GET", f"{path}/{{message_id}}")], ids)
        await refuses(other, [("DELETE", f"{path}/{{message_id}}")], ids)
        await refuses(other, [("POST", f"{path}/{{message_id}}")], ids)
        await other.threads.delete(own.id)
        assert await all_rows(postgres_url) == before


async def test_users_of_an_app_see_their_own_threads_and_the_app_sees_all(
    guarded: Guarded, postgres_url: str
) -> None:
    async with (
        client_of(guarded, postgres_url) as shop,
        user_of(guarded, shop.app, "ann") as ann,
        user_of(guarded, shop.app, "bob") as bob,
    ):
        of_ann = await ann.threads.create(messages=[{"role": "user", "content": "a"}])
        message = (await ann.threads.messages.list(of_ann.id)).data[0]
        ids = {"thread_id": of_ann.id, "message_id": message.id}
        before = await all_rows(postgres_url)
        await refuses(bob, routes_that_name("thread_id"), ids)
        assert await all_rows(postgres_url) == before
        assert await shop.threads.retrieve(of_ann.id) == of_ann
        await shop.threads.messages.create(of_ann.id, role="user", content="b")
        assert len((await ann.threads.messages.list(of_ann.id)).data) == 2
        of_the_app = await shop.threads.create()
        await refuses(bob, [("GET", "/v1/threads/{thread_id}")], {"thread_id": of_the_app.id})
        assistant = await shop.assistants.create(model="fake")
        assert await bob.assistants.retrieve(assistant.id) == assistant


async def test_without_a_key_nothing_is_answered(guarded: Guarded) -> None:
    for method, path in [*routes_that_name("assistant_id", "thread_id"), *LISTS_OF_OWN]:
        answer = await guarded.http.request(method, path.replace("{", "").replace("}", ""))
        assert answer.status_code == 401, (method, path)
