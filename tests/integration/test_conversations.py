"""`POST /api/messages/process` and `GET /api/actions`, from outside."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from api_server.errors import DependencyDownError
from api_server.library import open_stored_inference
from api_server.services.runs import following
from api_server.services.runs.following import Following
from tests.access import Guarded, guarded_gateway, make_app
from tests.run_homes import CALL, WEATHER, Home, assistants_home

SECRET = "a-secret-that-nobody-would-ever-guess"
FUNCTIONS = {"functions": {"get_weather": {"call": "tests.functions:get_weather"}}}
HELLO = [{"content": "hello", "role": "user"}]


@pytest.fixture
async def home(tmp_path: Path, postgres_url: str) -> AsyncIterator[Home]:
    async with assistants_home(tmp_path, postgres_url) as home:
        yield home


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    variables = {"JWT_SECRET": SECRET, "JWT_APP": "shop"}
    async with guarded_gateway(tmp_path, postgres_url, variables) as guarded:
        yield guarded


async def process(http: httpx.AsyncClient, body: Any, key: str = "none") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return await http.post("/api/messages/process", json=body, headers=headers)


def said(answer: httpx.Response) -> list[Any]:
    """What the lines of a stream hold; the last one is a word."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(line) for line in lines[:-1]] + [lines[-1]]


def text_of(lines: list[Any]) -> str:
    return "".join(line["chunk"] for line in lines[:-1] if "chunk" in line)


async def actions(home: Home, **params: str) -> list[Any]:
    answer = await home.http.get("/api/actions", params=params)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["data"]
    return found


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + 60}, SECRET, "HS256")


async def test_a_message_is_answered_in_a_thread_that_is_there_afterwards(home: Home) -> None:
    first = said(await process(home.http, {"messages": HELLO, "userId": "ann"}))
    assert set(first[0]) == {"run_id", "thread_id"}
    assert (text_of(first), first[-1]) == ("xxxxx", "[DONE]")
    thread = first[0]["thread_id"]
    again = {"messages": HELLO, "user_id": "ann", "thread_id": thread, "inference_type": "local"}
    second = said(await process(home.http, again))
    assert (text_of(second), second[-1]) == ("xxxxx", "[DONE]")
    roles = [message["role"] for message in await home.messages(thread)]
    assert roles == ["user", "assistant", "user", "assistant"]
    run = await home.get(f"/v1/threads/{thread}/runs/{second[0]['run_id']}")
    assert run["status"] == "completed"


async def test_an_assistant_of_ones_own_may_be_named(home: Home) -> None:
    assistant = await home.assistant(instructions="Speak of boats.")
    said(await process(home.http, {"messages": HELLO, "assistantId": assistant, "model": "fake"}))
    assert home.engine.bodies[-1]["messages"][0]["content"] == "Speak of boats."


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Invalid or missing 'messages' in request"),
        ({"messages": "hello"}, "Invalid or missing 'messages' in request"),
        ({"messages": []}, "Invalid or missing 'messages' in request"),
        ({"messages": [{"content": ""}]}, "Message content is missing"),
        ({"messages": [{}]}, "Message content is missing"),
        ({"messages": [7]}, "Message content is missing"),
        ({"messages": HELLO, "inferenceType": "moon"}, "Unsupported inference type: moon"),
        ({"messages": HELLO, "inference_type": "moon"}, "Unsupported inference type: moon"),
        ({"messages": HELLO, "inferenceType": "cloud"}, "No cloud model is served here"),
        ({"messages": HELLO, "userId": "a" * 257}, "userId: must be a text of at most 256"),
        ({"messages": HELLO, "userId": "a\0"}, "userId: must be a text of at most 256"),
    ],
)
async def test_what_is_asked_wrongly_is_said_in_the_guides_words(
    home: Home, body: Any, words: str
) -> None:
    answer = await process(home.http, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


async def test_a_failed_run_ends_with_the_guides_word(home: Home) -> None:
    home.engine.obey(fault="error_500")
    lines = said(await process(home.http, {"messages": HELLO}))
    assert lines[-1] == "[ERROR]"
    assert text_of(lines) == ""


async def test_a_stream_that_nobody_can_follow_any_more_ends_with_that_word_too(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise DependencyDownError("postgres")

    monkeypatch.setattr(Following, "_next", away)
    monkeypatch.setattr(following, "PATIENCE_SECONDS", -1.0)
    lines = said(await process(home.http, {"messages": HELLO}))
    assert (set(lines[0]), lines[1:]) == ({"run_id", "thread_id"}, ["[ERROR]"])


async def test_a_thread_is_its_users(guarded: Guarded, postgres_url: str) -> None:
    shop = await make_app(postgres_url)
    other = await make_app(postgres_url, "other")
    async with httpx.AsyncClient(base_url=guarded.url, timeout=10) as http:
        made = said(await process(http, {"messages": HELLO}, token("ann")))
        thread = made[0]["thread_id"]
        mine = {"messages": HELLO, "threadId": thread}
        assert said(await process(http, mine, token("ann")))[-1] == "[DONE]"
        assert (await process(http, mine, token("bob"))).status_code == 404
        assert (await process(http, mine, other.key or "")).status_code == 404
        by_key = mine | {"userId": "ann"}
        assert said(await process(http, by_key, shop.key or ""))[-1] == "[DONE]"
        for_bob = await process(http, mine | {"userId": "bob"}, shop.key or "")
        assert for_bob.status_code == 404
        as_bob = await process(http, mine | {"userId": "bob"}, token("ann"))
        assert (as_bob.status_code, "userId" in as_bob.json()["error"]) == (403, True)
        assert (await process(http, mine, "sk-nobody")).json().keys() == {"error"}


async def test_the_operators_functions_are_called(tmp_path: Path, postgres_url: str) -> None:
    async with assistants_home(tmp_path, postgres_url, assistants=FUNCTIONS) as home:
        home.engine.obey(calls=[CALL])
        lines = said(await process(home.http, {"messages": HELLO}))
        assert (text_of(lines), lines[-1]) == ("xxxxx", "[DONE]")
        tools = home.engine.bodies[-1]["tools"]
        assert tools[0]["function"]["parameters"]["required"] == ["city"]
        told = home.engine.bodies[-1]["messages"][-1]
        assert (told["role"], json.loads(told["content"])["degrees"]) == ("tool", 21)
        (action,) = await actions(home)
        assert (action["status"], action["executed_by"]) == ("completed", "server")
        assert action["function"]["name"] == "get_weather"
        assert json.loads(action["function"]["output"])["city"] == "Berlin"


async def test_a_call_that_waits_is_pending_until_it_is_answered(home: Home) -> None:
    home.engine.obey(calls=[CALL])
    assistant, thread = await home.assistant(tools=[WEATHER]), await home.thread()
    other = await home.thread()
    run = await home.run(thread, assistant)
    await home.until(thread, run["id"], "requires_action")
    (action,) = await actions(home, status="pending", thread_id=thread)
    assert (action["executed_by"], action["run_id"]) == ("client", run["id"])
    assert await actions(home, status="pending", thread_id=other) == []
    outputs = {"tool_outputs": [{"tool_call_id": action["tool_call_id"], "output": "sunny"}]}
    await home.post(f"/v1/threads/{thread}/runs/{run['id']}/submit_tool_outputs", outputs)
    await home.until(thread, run["id"])
    assert await actions(home, status="pending") == []
    (done,) = await actions(home, status="completed")
    assert done["function"]["output"] == "sunny"
    wrong = await home.http.get("/api/actions", params={"status": "sleeping"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "status")


async def test_a_conversation_says_what_it_waits_for(home: Home) -> None:
    """Functions that are nobody's here are the client's to call."""
    home.engine.obey(calls=[CALL])
    assistant = await home.assistant(tools=[WEATHER])
    lines = said(await process(home.http, {"messages": HELLO, "assistantId": assistant}))
    assert lines[-1] == "[DONE]"
    calls = lines[-2]["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather"]


async def test_the_library_answers_in_the_same_threads(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions are called in its own process, whoever does the run."""
    issued = await make_app(postgres_url)
    async with guarded_gateway(tmp_path, postgres_url) as guarded:
        headers = {"authorization": f"Bearer {issued.key}"}
        thread = (await guarded.http.post("/v1/threads", headers=headers)).json()["id"]
        variables = {"POSTGRES_URL": postgres_url, "DATA_DIR": str(tmp_path / "lib")}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        async with open_stored_inference("shop", tmp_path / "stack.yaml") as factory:
            inference = factory.get_inference("local")
            answer = inference.process_conversation(thread, None, None, None, "hello")
            assert "".join([chunk async for chunk in answer]) == "xxxxx"
            wrong = inference.process_conversation("thread_none", None, None, None, "hello")
            chunks = [chunk async for chunk in wrong]
            assert len(chunks) == 1
            assert chunks[0].startswith("STREAM_ERROR:")
            with pytest.raises(ValueError, match="must be 'local' or 'cloud'"):
                factory.get_inference("moon")
        path = f"/v1/threads/{thread}/messages"
        listed = (await guarded.http.get(path, headers=headers)).json()["data"]
        assert [message["role"] for message in listed] == ["assistant", "user"]
