"""Tools that the stack itself calls for runs, alone and beside a client's."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from api_server.composition import kept
from api_server.errors import DependencyDownError
from api_server.schemas.assistants import FileSearch, Function, Tool
from api_server.services.runs.tools import Context, Json, Result, Tools
from api_server.stores.postgres import Postgres
from tests.run_homes import CALL, WEATHER, Home, assistants_home, names

CLOCK: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}}


class Clock:
    """A function of the operator's."""

    type = "function"

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.seconds = 0.0

    def definition(self, tool: Tool) -> Json:
        assert isinstance(tool, Function)
        function = {"name": tool.function.name, "parameters": tool.function.parameters}
        return {"type": "function", "function": function}

    async def call(self, context: Context, arguments: str) -> Result:
        self.called.append((context.run_id, arguments))
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Result("noon")

    def cite(self, text: str, details: Sequence[Json]) -> list[Json]:
        raise AssertionError(f"no function is cited: {text} {details}")


class Search:
    """A built-in tool."""

    type = "file_search"

    def definition(self, tool: Tool) -> Json:
        assert isinstance(tool, FileSearch)
        return {"type": "function", "function": {"name": "file_search", "parameters": PARAMETERS}}

    async def call(self, context: Context, arguments: str) -> Result:
        assert "query" in arguments
        assert context.tool == FileSearch()
        found = {
            "file_id": "file_1",
            "file_name": "a.txt",
            "score": 0.5,
            "content": [{"type": "text", "text": "It is in there."}],
        }
        ranking = {"ranker": "default_2024_08_21", "score_threshold": 0}
        return Result("It is in there.", {"ranking_options": ranking, "results": [found]})

    def cite(self, text: str, details: Sequence[Json]) -> list[Json]:
        file_id = details[0]["results"][0]["file_id"]
        return [
            {
                "type": "file_citation",
                "text": text[:2],
                "file_citation": {"file_id": file_id},
                "start_index": 0,
                "end_index": 2,
            }
        ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def home(
    tmp_path: Path, postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Home]:
    tools = Tools({"clock": clock}, {"file_search": Search()})
    monkeypatch.setattr(kept, "Tools", lambda *_: tools)
    async with assistants_home(
        tmp_path, postgres_url, assistants={"max_rounds": 2}, jobs={"lease_seconds": 1}
    ) as home:
        yield home


async def test_a_function_of_ours_is_called_here(home: Home, clock: Clock) -> None:
    home.engine.obey(calls=[{"name": "clock"}, {"name": "clock"}])
    thread = await home.thread()
    body = {"assistant_id": await home.assistant(tools=[CLOCK]), "stream": True}
    told = await home.stream(f"/v1/threads/{thread}/runs", body)
    run = told[-2].data
    assert run["status"] == "completed", run
    assert clock.called == [(run["id"], "{}")] * 2
    called, spoken = await home.steps(thread, run["id"])
    assert [call["function"] for call in called["step_details"]["tool_calls"]] == [
        {"name": "clock", "arguments": "{}", "output": "noon"}
    ] * 2
    assert (called["status"], spoken["status"]) == ("completed", "completed")
    assert names(told)[3:] == [
        *("thread.run.step.created", "thread.run.step.in_progress", "thread.run.step.delta"),
        "thread.run.step.completed",
        *("thread.run.step.created", "thread.run.step.in_progress", "thread.message.created"),
        *("thread.message.in_progress", "thread.message.delta", "thread.message.completed"),
        *("thread.run.step.completed", "thread.run.completed", "done"),
    ]


async def test_ours_and_a_clients_in_one_answer(home: Home, postgres_url: str) -> None:
    home.engine.obey(calls=[{"name": "clock"}, CALL])
    thread = await home.thread()
    made = await home.run(thread, await home.assistant(tools=[CLOCK, WEATHER]))
    run = await home.until(thread, made["id"], "requires_action")
    (call,) = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    (step,) = await home.steps(thread, run["id"])
    outputs = [each["function"]["output"] for each in step["step_details"]["tool_calls"]]
    assert (step["status"], outputs) == ("in_progress", ["noon", None])
    path = f"/v1/threads/{thread}/runs/{run['id']}/submit_tool_outputs"
    await home.post(path, {"tool_outputs": [{"tool_call_id": call["id"], "output": "rain"}]})
    await home.until(thread, run["id"], "completed")
    tools = [each for each in home.engine.bodies[-1]["messages"] if each["role"] == "tool"]
    assert [each["content"] for each in tools] == ["noon", "rain"]
    postgres = Postgres(postgres_url)
    rows = await postgres.fetch("select * from actions order by seq")
    await postgres.aclose()
    assert [(row["name"], row["is_ours"], row["status"], row["output"]) for row in rows] == [
        ("clock", True, "completed", "noon"),
        ("get_weather", False, "completed", "rain"),
    ]


async def test_a_search_is_cited(home: Home) -> None:
    home.engine.obey(calls=[{"name": "file_search", "arguments": '{"query": "x"}'}])
    thread = await home.thread()
    body = {"assistant_id": await home.assistant(tools=[{"type": "file_search"}]), "stream": True}
    told = await home.stream(f"/v1/threads/{thread}/runs", body)
    run = told[-2].data
    assert run["status"] == "completed", run
    message = (await home.messages(thread))[-1]
    (annotation,) = message["content"][0]["text"]["annotations"]
    assert annotation["file_citation"] == {"file_id": "file_1"}
    step = (await home.steps(thread, run["id"]))[0]
    (call,) = step["step_details"]["tool_calls"]
    assert call["type"] == "file_search"
    assert "content" not in call["file_search"]["results"][0]
    path = f"/v1/threads/{thread}/runs/{run['id']}/steps/{step['id']}"
    shown = "step_details.tool_calls[*].file_search.results[*].content"
    found = (await home.http.get(path, params={"include[]": shown})).json()
    (call,) = found["step_details"]["tool_calls"]
    assert call["file_search"]["results"][0]["content"][0]["text"] == "It is in there."


async def test_the_model_is_told_of_a_function_that_fails(home: Home, clock: Clock) -> None:
    home.engine.obey(calls=[{"name": "clock"}])
    clock.error = ValueError("secret")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant(tools=[CLOCK]))
    run = await home.until(thread, made["id"])
    assert run["status"] == "completed"
    assert home.engine.bodies[-1]["messages"][-1]["content"] == "The call failed."


async def test_a_tool_that_is_away_fails_the_run_which_can_be_resumed(
    home: Home, clock: Clock
) -> None:
    home.engine.obey(calls=[{"name": "clock"}])
    clock.error = DependencyDownError("the clock")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant(tools=[CLOCK]))
    run = await home.until(thread, made["id"])
    assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
    clock.error = None
    await home.post(f"/v1/threads/{thread}/runs/{run['id']}/resume")
    assert (await home.until(thread, run["id"]))["status"] == "completed"
    assert [step["status"] for step in await home.steps(thread, run["id"])] == [
        *("failed", "completed", "completed")
    ]


async def test_a_call_is_cancelled_with_its_run(home: Home, clock: Clock) -> None:
    home.engine.obey(calls=[{"name": "clock"}])
    clock.seconds = 30
    thread = await home.thread()
    made = await home.run(thread, await home.assistant(tools=[CLOCK]))
    async with asyncio.timeout(5):
        while not clock.called:
            await asyncio.sleep(0.01)
    await home.post(f"/v1/threads/{thread}/runs/{made['id']}/cancel")
    run = await home.until(thread, made["id"], seconds=2)
    assert run["status"] == "cancelled"
    assert [step["status"] for step in await home.steps(thread, run["id"])] == ["cancelled"]


async def test_a_run_asks_no_more_often_than_it_may(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fake_engine.answers.calls_tools", lambda *_: True)
    home.engine.obey(calls=[{"name": "clock"}])
    thread = await home.thread()
    made = await home.run(thread, await home.assistant(tools=[CLOCK]))
    run = await home.until(thread, made["id"])
    assert run["status"] == "failed"
    assert "assistants.max_rounds" in run["last_error"]["message"]
    assert len(await home.steps(thread, run["id"])) == 2
