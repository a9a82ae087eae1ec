"""Runs that fail, take too long, are taken over, or are begun again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.local.process import free_port
from api_server.stores.postgres import Postgres
from tests.job_programs import programs
from tests.replicas import running_replicas
from tests.run_homes import CALL, WEATHER, Home, assistants_home, events_of, names


@pytest.fixture
async def home(tmp_path: Path, postgres_url: str) -> AsyncIterator[Home]:
    async with assistants_home(tmp_path, postgres_url) as home:
        yield home


async def resumed(home: Home, run: dict[str, Any]) -> dict[str, Any]:
    path = f"/v1/threads/{run['thread_id']}/runs/{run['id']}"
    again = await home.post(f"{path}/resume")
    assert (again["status"], again["last_error"]) == ("queued", None)
    return await home.until(run["thread_id"], run["id"])


async def test_an_engine_that_fails_ends_the_run_which_can_be_resumed(home: Home) -> None:
    home.engine.obey(fault="error_500")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    run = await home.until(thread, made["id"])
    assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
    assert f"/v1/threads/{thread}/runs/{run['id']}/resume" in run["last_error"]["message"]
    assert run["failed_at"]
    home.engine.obey()
    done = await resumed(home, run)
    assert (done["status"], done["failed_at"]) == ("completed", None)
    assert len(await home.messages(thread)) == 2
    refused = await home.post(f"/v1/threads/{thread}/runs/{run['id']}/resume", status=400)
    assert "completed" in refused["error"]["message"]


async def test_each_end_of_a_run_is_counted_once(home: Home) -> None:
    thread, assistant = await home.thread(), await home.assistant()
    made = await home.run(thread, assistant)
    await home.until(thread, made["id"], "completed")
    home.engine.obey(fault="error_500")
    made = await home.run(thread, assistant)
    failed = await home.until(thread, made["id"], "failed")
    home.engine.obey()
    await resumed(home, failed)
    home.engine.obey(fault="loading_503")
    made = await home.run(thread, assistant)
    path = f"/v1/threads/{thread}/runs/{made['id']}/cancel"
    await home.post(path)
    await home.until(thread, made["id"], "cancelled")
    told = (await home.http.get("/metrics")).text
    for status, count in (("completed", 2), ("failed", 1), ("cancelled", 1), ("expired", 0)):
        assert f'llm_gateway_run_seconds_count{{status="{status}"}} {count}\n' in told, status


async def test_of_many_who_resume_at_once_one_begins_a_leg(home: Home, postgres_url: str) -> None:
    home.engine.obey(fault="error_500")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    run = await home.until(thread, made["id"])
    assert run["status"] == "failed"
    home.engine.obey(pause=0.02, tokens=5)
    path = f"/v1/threads/{thread}/runs/{run['id']}"
    answers = await asyncio.gather(*(home.http.post(f"{path}/resume") for _ in range(8)))
    assert sorted(each.status_code for each in answers) == [200] + [400] * 7
    assert all("cannot be resumed" in each.text for each in answers if each.status_code == 400)
    assert (await home.until(thread, run["id"]))["status"] == "completed"
    assert len(await home.messages(thread)) == 2
    async with contextlib.aclosing(Postgres(postgres_url)) as postgres:
        (row,) = await postgres.fetch("select leg from runs")
        assert row["leg"] == 2
        assert len(await postgres.fetch("select from jobs where kind = 'run'")) == 2
    told = names(await home.stream(f"{path}/events"))
    assert told.count("thread.run.queued") == 2


async def test_half_a_message_is_not_there_twice_after_a_resume(home: Home) -> None:
    home.engine.obey(fault="close_in_stream")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    run = await home.until(thread, made["id"])
    assert run["status"] == "failed"
    half = (await home.messages(thread))[-1]
    assert (half["status"], half["incomplete_details"]) == ("incomplete", {"reason": "run_failed"})
    home.engine.obey()
    await resumed(home, run)
    assert [each["status"] for each in await home.messages(thread)] == ["completed"] * 2
    assert [step["status"] for step in await home.steps(thread, run["id"])] == [
        *("failed", "completed")
    ]
    told = await home.stream(f"/v1/threads/{thread}/runs/{run['id']}/events")
    ids = [each.id or 0 for each in told[:-1]]
    assert ids == sorted(set(ids))
    states = [name for name in names(told) if name.count(".") == 2 and ".run." in name]
    assert states[3:] == [
        "thread.run.failed",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.completed",
    ]


async def test_an_engine_that_is_busy_puts_the_run_off(home: Home) -> None:
    home.engine.obey(fault="loading_503")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    await home.until(thread, made["id"], "in_progress")
    await asyncio.sleep(0.5)
    home.engine.obey()
    run = await home.until(thread, made["id"])
    assert run["status"] == "completed", run


async def test_a_bad_request_cannot_be_resumed(home: Home) -> None:
    home.engine.obey(fault="bad_value")
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    run = await home.until(thread, made["id"])
    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    assert run["last_error"]["message"].endswith("The run cannot be resumed.")
    await home.post(f"/v1/threads/{thread}/runs/{run['id']}/resume", status=400)


async def test_what_does_not_fit_is_left_out(home: Home) -> None:
    home.engine.obey(fault="too_long", for_requests=1)
    texts = [f"{number} " + "word " * 200 for number in range(10)]
    thread = await home.thread(*texts)
    made = await home.run(thread, await home.assistant())
    run = await home.until(thread, made["id"])
    assert run["status"] == "completed", run
    bodies: list[Any] = list(home.engine.bodies)
    first, last = bodies[-2:]
    assert 1 < len(last["messages"]) < len(first["messages"])
    assert last["messages"][0]["role"] == "system"
    assert last["messages"][-1]["content"] == texts[-1]


async def test_a_run_may_see_the_last_messages_only(home: Home) -> None:
    thread = await home.thread("one", "two", "three")
    assistant = await home.assistant()
    strategy = {"type": "last_messages", "last_messages": 2}
    run = await home.run(thread, assistant, truncation_strategy=strategy)
    assert run["truncation_strategy"] == strategy
    await home.until(thread, run["id"], "completed")
    asked = home.engine.bodies[-1]["messages"]
    assert [each["content"] for each in asked[1:]] == ["two", "three"]


async def test_a_prompt_has_its_bound(home: Home) -> None:
    thread = await home.thread("word " * 1000, "short")
    assistant = await home.assistant()
    run = await home.run(thread, assistant, max_prompt_tokens=256)
    assert (await home.until(thread, run["id"]))["status"] == "completed"
    assert [each["content"] for each in home.engine.bodies[-1]["messages"]] == [
        *("Be brief.", "short")
    ]
    thread = await home.thread("word " * 1000)
    run = await home.run(thread, assistant, max_prompt_tokens=256)
    done = await home.until(thread, run["id"])
    assert (done["status"], done["incomplete_details"]) == (
        *("incomplete", {"reason": "max_prompt_tokens"}),
    )


async def test_an_answer_has_its_bound(home: Home) -> None:
    home.engine.obey(tokens=400, heeds_max=True)
    thread = await home.thread()
    run = await home.run(thread, await home.assistant(), max_completion_tokens=300)
    done = await home.until(thread, run["id"])
    assert (done["status"], done["incomplete_details"]) == (
        *("incomplete", {"reason": "max_completion_tokens"}),
    )
    assert done["usage"]["completion_tokens"] == 300
    half = (await home.messages(thread))[-1]
    assert (half["status"], half["incomplete_details"]) == ("incomplete", {"reason": "max_tokens"})
    assert len(half["content"][0]["text"]["value"]) == 300


async def test_what_is_not_served_is_a_400(home: Home) -> None:
    thread, assistant = await home.thread(), await home.assistant()
    for body in (
        {"tools": [{"type": "code_interpreter"}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "nobody"}}},
        {"truncation_strategy": {"type": "last_messages"}},
        {"max_completion_tokens": 255},
        {"temperature": 3},
        {"model": ""},
        {"metadata": {"k": "v\0"}},
        {"additional_messages": [{"role": "system", "content": "x"}]},
    ):
        refused = await home.run(thread, assistant, 400, **body)
        assert refused["error"]["param"], (body, refused)
    await home.run(thread, assistant, 404, model="nobody")


async def test_a_run_that_waits_too_long_expires(tmp_path: Path, postgres_url: str) -> None:
    section = {"run_seconds": 1.0}
    async with assistants_home(tmp_path, postgres_url, assistants=section) as home:
        home.engine.obey(calls=[CALL])
        thread = await home.thread()
        made = await home.run(thread, await home.assistant(tools=[WEATHER]))
        await home.until(thread, made["id"], "requires_action")
        run = await home.until(thread, made["id"])
        assert run["status"] == "expired"
        assert [step["status"] for step in await home.steps(thread, run["id"])] == ["expired"]
        told = await home.stream(f"/v1/threads/{thread}/runs/{run['id']}/events")
        assert names(told)[-3:] == ["thread.run.step.expired", "thread.run.expired", "done"]
        home.engine.obey()
        assert (await resumed(home, run))["status"] == "completed"
        home.engine.obey(pause=0.3, tokens=50)
        made = await home.run(thread, await home.assistant())
        began = time.monotonic()
        run = await home.until(thread, made["id"])
        assert run["status"] == "expired"
        assert time.monotonic() - began < 2.5
        half = (await home.messages(thread))[-1]
        assert half["incomplete_details"] == {"reason": "run_expired"}
        while home.engine.running:
            await asyncio.sleep(0.01)


async def test_a_thread_that_is_deleted_stops_its_run(home: Home) -> None:
    home.engine.obey(pause=0.2, tokens=50)
    thread = await home.thread()
    made = await home.run(thread, await home.assistant())
    await home.see(f"/v1/threads/{thread}/runs/{made['id']}/events", "thread.message.delta")
    answer = await home.http.delete(f"/v1/threads/{thread}")
    assert answer.status_code == 200
    async with asyncio.timeout(3):
        while home.engine.running:
            await asyncio.sleep(0.01)
    await home.get(f"/v1/threads/{thread}/runs/{made['id']}", 404)


async def test_the_client_that_leaves_does_not_stop_the_run(home: Home) -> None:
    home.engine.obey(pause=0.05, tokens=10)
    thread = await home.thread()
    body = {"assistant_id": await home.assistant(), "stream": True}
    async with home.http.stream("POST", f"/v1/threads/{thread}/runs", json=body) as answer:
        async for told in events_of(answer):
            if told.event == "thread.message.delta":
                break
    run = (await home.get(f"/v1/threads/{thread}/runs"))["data"][0]
    ended = await home.until(thread, run["id"])
    assert ended["status"] == "completed", ended["last_error"]


async def test_a_stream_goes_on_when_the_worker_is_killed(
    tmp_path: Path, postgres_url: str
) -> None:
    """The gateway does no runs itself: each event comes to it by way of PostgreSQL."""
    sections = {"jobs": {"lease_seconds": 1}, "assistants": {"runs": 0}}
    async with running_replicas(1) as (engine,), asyncio.timeout(40):
        await engine.order(pause=0.1, tokens=12)
        port = free_port()
        verbs = ("serve", "worker", "worker")
        gateway, first, second = programs(tmp_path, engine, postgres_url, port, verbs, **sections)
        try:
            await asyncio.gather(gateway.start(), first.start())
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=20) as http:
                assistant = await _post(http, "/v1/assistants", {"model": "fake"})
                message = {"role": "user", "content": "hi"}
                thread = await _post(http, "/v1/threads", {"messages": [message]})
                body = {"assistant_id": assistant["id"], "stream": True}
                path = f"/v1/threads/{thread['id']}/runs"
                told = []
                has_second = False
                async with http.stream("POST", path, json=body) as answer:
                    async for event in events_of(answer):
                        told.append(event)
                        if names(told).count("thread.message.delta") and not has_second:
                            await first.kill()
                            await second.start()
                            has_second = True
                assert names(told)[-2:] == ["thread.run.completed", "done"]
                assert "thread.run.step.failed" in names(told)
                ids = [each.id or 0 for each in told[:-1]]
                assert ids == sorted(set(ids))
                listed = (await http.get(f"/v1/threads/{thread['id']}/messages")).json()["data"]
                assert [each["role"] for each in listed] == ["assistant", "user"]
                assert listed[0]["content"][0]["text"]["value"] == "x" * 12
                again = []
                run_id = listed[0]["run_id"]
                async with http.stream("GET", f"{path}/{run_id}/events") as answer:
                    again = [event async for event in events_of(answer)]
                shown = {each.id: each for each in told}
                assert all(each.id in shown and shown[each.id] == each for each in again)
        finally:
            for program in (gateway, first, second):
                await program.kill()


async def _post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    deadline = time.monotonic() + 15
    while True:
        try:
            return (await http.post(path, json=body)).raise_for_status().json()
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_streams_are_forgotten(tmp_path: Path, postgres_url: str) -> None:
    section = {"event_days": 1e-6}
    postgres = Postgres(postgres_url)
    async with (
        contextlib.aclosing(postgres),
        assistants_home(tmp_path, postgres_url, assistants=section) as home,
    ):
        thread = await home.thread()
        run = await home.run(thread, await home.assistant())
        await home.until(thread, run["id"], "completed")
        async with asyncio.timeout(5):
            while (await postgres.fetch("select count(*) as n from run_events"))[0]["n"]:
                await asyncio.sleep(0.05)
        path = f"/v1/threads/{thread}/runs/{run['id']}/events"
        assert names(await home.stream(path)) == ["done"]
