"""Runs from outside: a gateway with PostgreSQL in front of the fake engine."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.run_homes import CALL, WEATHER, Home, assistants_home, names, text_of
from tests.samples import samples
from tests.stores import PostgresServer
from tests.wire import assert_valid

SPOKEN = [
    "thread.run.created",
    "thread.run.queued",
    "thread.run.in_progress",
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.run.step.completed",
    "thread.run.completed",
    "done",
]


@pytest.fixture
async def home(tmp_path: Path, postgres_url: str) -> AsyncIterator[Home]:
    async with assistants_home(tmp_path, postgres_url) as home:
        yield home


async def test_a_run_answers_its_thread(home: Home) -> None:
    assistant, thread = await home.assistant(), await home.thread("one", "two")
    made = await home.run(thread, assistant, metadata={"a": "b"})
    assert (made["status"], made["usage"], made["expires_at"] > made["created_at"]) == (
        "queued",
        None,
        True,
    )
    run = await home.until(thread, made["id"])
    assert run["status"] == "completed", run
    assert run["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert run["created_at"] <= run["started_at"] <= run["completed_at"]
    assert (run["metadata"], run["model"], run["instructions"]) == ({"a": "b"}, "fake", "Be brief.")
    messages = await home.messages(thread)
    assert [message["role"] for message in messages] == ["user", "user", "assistant"]
    last = messages[-1]
    assert (last["status"], last["run_id"], last["assistant_id"]) == (
        "completed",
        run["id"],
        assistant,
    )
    assert last["content"][0]["text"]["value"] == "xxxxx"
    (step,) = await home.steps(thread, run["id"])
    assert step["step_details"]["message_creation"] == {"message_id": last["id"]}
    assert (step["status"], step["usage"]) == ("completed", run["usage"])
    assert await home.get(f"/v1/threads/{thread}/runs/{run['id']}/steps/{step['id']}") == step
    listed = await home.get(f"/v1/threads/{thread}/runs")
    assert_valid("ListRunsResponse", listed)
    assert listed["data"] == [run]
    assert home.engine.bodies[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
    ]


async def test_a_stream_says_it_all_and_can_be_read_again(home: Home) -> None:
    assistant, thread = await home.assistant(), await home.thread()
    body = {"assistant_id": assistant, "stream": True}
    told = await home.stream(f"/v1/threads/{thread}/runs", body)
    assert names(told) == SPOKEN
    assert text_of(told) == "xxxxx"
    ids = [each.id for each in told[:-1]]
    assert ids == list(range(1, len(told)))
    run = told[-2].data
    assert await home.get(f"/v1/threads/{thread}/runs/{run['id']}") == run
    path = f"/v1/threads/{thread}/runs/{run['id']}/events"
    began = time.monotonic()
    assert await home.stream(path) == told
    assert time.monotonic() - began < 0.9, "nothing comes behind the end of a run"
    assert await home.stream(f"{path}?after=7") == told[7:]
    assert names(await home.stream(f"{path}?after={ids[-1]}")) == ["done"]


async def test_the_first_text_of_a_stream_is_measured_and_that_of_no_other_run(home: Home) -> None:
    assistant, thread = await home.assistant(), await home.thread()
    made = await home.run(thread, assistant)
    await home.until(thread, made["id"], "completed")
    home.engine.obey(first_pause=0.3, tokens=3, pause=0.3)
    path = f"/v1/threads/{thread}/runs"
    await home.stream(path, {"assistant_id": assistant, "stream": True})
    name = "gen_ai_server_time_to_first_token_seconds"
    async with asyncio.timeout(5):  # it is counted behind the last byte
        while not (got := samples((await home.http.get("/metrics")).content)).get(
            (f"{name}_sum", "run", "fake")
        ):
            await asyncio.sleep(0.02)
    assert got[f"{name}_count", "run", "fake"] == 1
    assert got[f"{name}_count", "chat", "fake"] == 0
    assert 0.3 <= got[f"{name}_sum", "run", "fake"] < 10
    assert got["gen_ai_server_request_duration_seconds_count", "", "run", "fake"] == 2
    assert got["gen_ai_server_request_duration_seconds_count", "", "chat", "fake"] == 0


async def test_a_thread_and_its_run_at_once(home: Home) -> None:
    body: dict[str, Any] = {"assistant_id": await home.assistant(), "stream": True}
    body["thread"] = {"messages": [{"role": "user", "content": "hi"}]}
    told = await home.stream("/v1/threads/runs", body)
    assert names(told) == ["thread.created", *SPOKEN]
    made = await home.post("/v1/threads/runs", body | {"stream": False})
    assert_valid("RunObject", made)
    await home.until(made["thread_id"], made["id"], "completed")


async def test_a_run_makes_an_empty_thread_where_none_is_told(home: Home) -> None:
    assistant = await home.assistant()
    run = await home.post("/v1/threads/runs", {"assistant_id": assistant})
    assert (await home.until(run["thread_id"], run["id"]))["status"] == "completed"
    assert [each["role"] for each in await home.messages(run["thread_id"])] == ["assistant"]


@pytest.mark.parametrize(
    ("path", "wrong", "param"),
    [
        ("/v1/threads/runs", {"additional_messages": []}, "additional_messages"),
        ("/v1/threads/{}/runs", {"max_tokens": 9}, "max_tokens"),
        ("/v1/threads/{}/runs", {"assistant_id": "asst_no"}, "assistant_id"),
        (
            "/v1/threads/{}/runs",
            {"truncation_strategy": {"last_messages": 3}},
            "truncation_strategy.type",
        ),
        ("/v1/threads/{}/runs?include[]=everything", {}, "include[]"),
    ],
)
async def test_wishes_that_cannot_be_are_named(
    home: Home, path: str, wrong: dict[str, Any], param: str
) -> None:
    body = {"assistant_id": await home.assistant()} | wrong
    answer = await home.http.post(path.format(await home.thread()), json=body)
    assert answer.status_code == (404 if param == "assistant_id" else 400), answer.text
    assert_valid("ErrorResponse", answer.json())
    assert answer.json()["error"]["param"] == param


async def test_functions_are_answered_by_the_client(home: Home) -> None:
    home.engine.obey(calls=[CALL, CALL | {"arguments": '{"city": "Bonn"}'}])
    assistant, thread = await home.assistant(tools=[WEATHER]), await home.thread()
    body = {"assistant_id": assistant, "stream": True}
    told = await home.stream(f"/v1/threads/{thread}/runs", body)
    assert names(told)[3:] == [
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
        "thread.run.requires_action",
        "done",
    ]
    run = told[-2].data
    assert run["status"] == "requires_action"
    assert run["usage"] is None
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [
        '{"city": "Berlin"}',
        '{"city": "Bonn"}',
    ]
    path = f"/v1/threads/{thread}/runs/{run['id']}"
    outputs = [{"tool_call_id": call["id"], "output": "sunny"} for call in calls]
    refused = await home.post(f"{path}/submit_tool_outputs", {"tool_outputs": outputs[:1]}, 400)
    assert "Expected tool outputs for call_ids" in refused["error"]["message"]
    strange = [outputs[0], {"tool_call_id": "call_x", "output": ""}]
    await home.post(f"{path}/submit_tool_outputs", {"tool_outputs": strange}, 400)
    body = {"tool_outputs": outputs, "stream": True}
    rest = await home.stream(f"{path}/submit_tool_outputs", body)
    assert names(rest) == ["thread.run.step.completed", *SPOKEN[1:]]
    assert rest[0].id == told[-2].id + 1 if told[-2].id else False
    await home.post(f"{path}/submit_tool_outputs", {"tool_outputs": outputs}, 400)
    assert await home.stream(f"{path}/events") == told[:-1] + rest
    done = rest[-2].data
    assert done["required_action"] is None
    assert done["usage"] == {"prompt_tokens": 6, "completion_tokens": 11, "total_tokens": 17}
    called, spoken = await home.steps(thread, run["id"])
    assert [call["function"]["output"] for call in called["step_details"]["tool_calls"]] == [
        "sunny",
        "sunny",
    ]
    assert (called["status"], spoken["type"]) == ("completed", "message_creation")
    asked = home.engine.bodies[-1]["messages"]
    assert [message["role"] for message in asked] == [
        *("system", "user", "assistant", "tool", "tool"),
    ]
    assert [call["id"] for call in asked[2]["tool_calls"]] == [call["id"] for call in calls]


async def test_two_who_submit_the_same_have_both_done_it(home: Home) -> None:
    home.engine.obey(calls=[CALL])
    assistant, thread = await home.assistant(tools=[WEATHER]), await home.thread()
    run = await home.run(thread, assistant)
    waiting = await home.until(thread, run["id"], "requires_action")
    (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
    home.engine.obey(calls=[CALL], first_pause=0.3)
    body = {"tool_outputs": [{"tool_call_id": call["id"], "output": "1"}]}
    path = f"/v1/threads/{thread}/runs/{run['id']}/submit_tool_outputs"
    both = await asyncio.gather(home.post(path, body), home.post(path, body))
    assert {each["id"] for each in both} == {run["id"]}
    other = {"tool_outputs": [{"tool_call_id": call["id"], "output": "2"}]}
    await home.post(path, other, 400)
    await home.until(thread, run["id"], "completed")
    assert len(await home.messages(thread)) == 2


async def test_a_second_run_of_a_thread_is_refused(
    home: Home, postgres_server: PostgresServer
) -> None:
    home.engine.obey(first_pause=0.3)
    assistant, thread = await home.assistant(), await home.thread()
    path = f"/v1/threads/{thread}/runs"
    answers = await asyncio.gather(
        *(home.http.post(path, json={"assistant_id": assistant}) for _ in range(6))
    )
    assert sorted(each.status_code for each in answers) == [200, *[400] * 5]
    (made,) = [each.json() for each in answers if each.status_code == 200]
    told = f"Thread {thread} already has an active run {made['id']}."
    assert {each.json()["error"]["message"] for each in answers if each.status_code == 400} == {
        told
    }
    with_messages: dict[str, Any] = {"additional_messages": [{"role": "user", "content": "x"}]}
    refused = await home.run(thread, assistant, 400, **with_messages)
    assert refused["error"]["message"] == told
    await home.until(thread, made["id"], "completed")
    again = await home.run(thread, assistant, **with_messages)
    await home.until(thread, again["id"], "completed")
    assert len(await home.messages(thread)) == 4
    # Each error of a statement would be there, with the statement, for whoever tries again.
    assert thread not in postgres_server.log_path.read_text()


async def test_a_run_that_is_refused_leaves_no_messages(home: Home) -> None:
    home.engine.obey(first_pause=0.3)
    assistant, thread = await home.assistant(), await home.thread()
    more = [{"role": "user", "content": "x"}]
    body = {"assistant_id": assistant, "additional_messages": more}
    path = f"/v1/threads/{thread}/runs"
    answers = await asyncio.gather(*(home.http.post(path, json=body) for _ in range(6)))
    assert sorted(each.status_code for each in answers) == [200, *[400] * 5]
    (made,) = [each.json() for each in answers if each.status_code == 200]
    await home.until(thread, made["id"], "completed")
    assert len(await home.messages(thread)) == 3  # one was there


async def test_cancelling_stops_the_engine_at_once(home: Home) -> None:
    home.engine.obey(pause=0.1, tokens=50)
    assistant, thread = await home.assistant(), await home.thread()
    run = await home.run(thread, assistant)
    path = f"/v1/threads/{thread}/runs/{run['id']}"
    await home.see(f"{path}/events", "thread.message.delta", 3)
    began = time.monotonic()
    said = await home.post(f"{path}/cancel")
    assert said["status"] == "cancelling"
    while home.engine.running:
        await asyncio.sleep(0.002)
    assert time.monotonic() - began < 0.25
    done = await home.until(thread, run["id"])
    assert done["status"] == "cancelled"
    assert done["cancelled_at"]
    assert done["usage"]["completion_tokens"] >= 3
    half = (await home.messages(thread))[-1]
    assert half["status"] == "incomplete"
    assert half["incomplete_details"] == {"reason": "run_cancelled"}
    assert len(half["content"][0]["text"]["value"]) >= 3
    (step,) = await home.steps(thread, run["id"])
    assert step["status"] == "cancelled"
    told = await home.stream(f"{path}/events")
    assert names(told)[-5:] == [
        "thread.run.cancelling",
        "thread.message.incomplete",
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    refused = await home.post(f"{path}/cancel", status=400)
    assert refused["error"]["message"] == "Cannot cancel run with status 'cancelled'."


async def test_a_run_that_waits_for_outputs_is_cancelled_at_once(home: Home) -> None:
    home.engine.obey(calls=[CALL])
    assistant, thread = await home.assistant(tools=[WEATHER]), await home.thread()
    run = await home.run(thread, assistant)
    await home.until(thread, run["id"], "requires_action")
    path = f"/v1/threads/{thread}/runs/{run['id']}"
    said = await home.post(f"{path}/cancel")
    assert said["status"] == "cancelled"
    assert_valid("RunObject", said)
    assert [step["status"] for step in await home.steps(thread, run["id"])] == ["cancelled"]
    assert names(await home.stream(f"{path}/events"))[-3:] == [
        "thread.run.step.cancelled",
        "thread.run.cancelled",
        "done",
    ]
    home.engine.obey()
    again = await home.run(thread, assistant)
    await home.until(thread, again["id"], "completed")


async def test_what_is_seen_of_other_threads(home: Home) -> None:
    assistant, thread, other = await home.assistant(), await home.thread(), await home.thread()
    run = await home.run(thread, assistant)
    await home.until(thread, run["id"], "completed")
    for path in ("", "/steps", "/events"):
        await home.get(f"/v1/threads/{other}/runs/{run['id']}{path}", 404)
    await home.post(f"/v1/threads/{other}/runs/{run['id']}/cancel", status=404)
    await home.get("/v1/threads/thread_x/runs", 404)
    await home.run("thread_x", assistant, 404)
    await home.run(thread, "asst_x", 404)
    changed = await home.post(f"/v1/threads/{thread}/runs/{run['id']}", {"metadata": {"k": "v"}})
    assert changed == run | changed
    assert changed["metadata"] == {"k": "v"}
