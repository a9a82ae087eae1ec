"""Runs with tools while the gateway and the workers are killed at random, none of them asked first.

`RUNS_CHAOS=RUNS,KILLS` sets how many of each; the issue asks for 200,50.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.local.process import free_port
from api_server.stores.postgres import Postgres
from tests.job_programs import Program, programs
from tests.replicas import Counts, running_replicas
from tests.run_homes import CALL, WEATHER, Told, events_of

RUNS, KILLS = map(int, os.environ.get("RUNS_CHAOS", "24,4").split(","))
CLIENTS = 8
PATIENCE_SECONDS = 60 + 4 * KILLS + RUNS // 4
FINAL = ("completed", "failed", "cancelled", "expired", "incomplete")


async def persistently(
    http: httpx.AsyncClient, method: str, path: str, *, may_refuse: bool = False, **said: Any
) -> Any:
    """Ask until the gateway answers: it is killed now and then. None for a 400, where it may."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = await http.request(method, path, **said)
            if answer.status_code == 200:
                return answer.json()
            if may_refuse and answer.status_code == 400:
                return None
            assert answer.status_code in (429, 503), answer.text
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the gateway does not come back"
        await asyncio.sleep(0.1)


async def one_run(http: httpx.AsyncClient, assistant: str, number: int) -> tuple[str, str]:
    """A client that does what is asked of it, whatever happens; the thread and its run."""
    message = {"role": "user", "content": f"number {number}"}
    thread = (await persistently(http, "POST", "/v1/threads", json={"messages": [message]}))["id"]
    path = f"/v1/threads/{thread}/runs"
    await persistently(http, "POST", path, may_refuse=True, json={"assistant_id": assistant})
    while True:  # an answer that was lost is no reason for a second run
        listed = await persistently(http, "GET", path)
        assert len(listed["data"]) == 1, listed
        run = listed["data"][0]
        if run["status"] == "requires_action":
            calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
            outputs = [{"tool_call_id": call["id"], "output": "sunny"} for call in calls]
            told = {"tool_outputs": outputs}
            submit = f"{path}/{run['id']}/submit_tool_outputs"
            await persistently(http, "POST", submit, may_refuse=True, json=told)
        elif run["status"] == "failed":
            assert "can be resumed" in run["last_error"]["message"], run
            resume = f"{path}/{run['id']}/resume"
            await persistently(http, "POST", resume, may_refuse=True)
        elif run["status"] in FINAL:
            return thread, run["id"]
        await asyncio.sleep(0.05)


async def follow(http: httpx.AsyncClient, path: str) -> list[Told]:
    """A stream that is taken up again wherever it broke off."""
    told: list[Told] = []
    after = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            async with http.stream("GET", f"{path}?after={after}") as answer:
                if answer.status_code == 200:
                    async for event in events_of(answer):
                        if event.event == "done":
                            return told
                        told.append(event)
                        after = event.id or after
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("the stream never came to its end")


def check_thread(
    messages: list[Mapping[str, Any]], run: Mapping[str, Any], steps: list[Mapping[str, Any]]
) -> None:
    """Nothing is lost, nothing is doubled."""
    assert run["status"] == "completed", run
    assert [(each["role"], each["status"]) for each in messages] == [
        ("user", "completed"),
        ("assistant", "completed"),
    ]
    assert messages[1]["run_id"] == run["id"]
    assert json.loads(messages[1]["content"])[0]["text"]["value"] == "xx"
    done = [step for step in steps if step["status"] == "completed"]
    assert [step["type"] for step in done] == ["tool_calls", "message_creation"], steps
    assert {step["status"] for step in steps} <= {"completed", "failed"}
    (call,) = json.loads(done[0]["details"])["tool_calls"]
    assert call["function"] == CALL | {"output": "sunny"}
    used = [json.loads(step["usage"]) for step in steps if step["usage"]]
    assert sum(each["completion_tokens"] for each in used) == run["completion_tokens"]
    assert sum(each["prompt_tokens"] for each in used) == run["prompt_tokens"]
    assert run["completion_tokens"] >= 5


async def check_ledger(postgres: Postgres, counts: Counts) -> None:
    """Each request that the engine saw has one row; those that ended well have its tokens."""
    rows = await postgres.fetch("select * from usage where route = 'run'")
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert set(counts.request_ids) <= set(by_id)
    whole = {row["request_id"] for row in rows if row["outcome"] == "ok" and row["status"] == 200}
    assert whole <= set(counts.finished_tokens)
    for id_ in whole:
        assert by_id[id_]["completion_tokens"] == counts.finished_tokens[id_]
    (runs,) = await postgres.fetch("select sum(completion_tokens)::bigint as n from runs")
    assert runs["n"] <= sum(row["completion_tokens"] or 0 for row in rows)


@asynccontextmanager
async def killing(
    running: list[Program], chance: random.Random, kills: int
) -> AsyncIterator[asyncio.Task[None]]:
    async def kill_at_random() -> None:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.6, 2.0))
            victim = chance.choice(running)
            await victim.kill()
            await victim.start()

    task = asyncio.create_task(kill_at_random())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
async def test_every_run_ends_once_however_many_are_killed(
    tmp_path: Path, postgres_url: str
) -> None:
    chance = random.Random(2026)
    postgres = Postgres(postgres_url)
    async with running_replicas(1) as (engine,), asyncio.timeout(PATIENCE_SECONDS + 40):
        await engine.order(first_pause=0.3, pause=0.1, tokens=2, calls=[CALL])
        sections = {
            "jobs": {"lease_seconds": 1, "max_attempts": 50},
            "assistants": {"runs": 3, "worker_runs": 6, "run_seconds": PATIENCE_SECONDS},
        }
        port = free_port()
        verbs = ("serve", "worker", "worker")
        running = programs(tmp_path, engine, postgres_url, port, verbs, **sections)
        try:
            await asyncio.gather(*(program.start() for program in running))
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=5) as http:
                told = {"model": "fake", "tools": [WEATHER]}
                assistant = (await persistently(http, "POST", "/v1/assistants", json=told))["id"]
                numbers = iter(range(RUNS))
                ended: list[tuple[str, str]] = []

                async def client() -> None:
                    while (number := next(numbers, None)) is not None:
                        ended.append(await one_run(http, assistant, number))

                async with killing(running, chance, KILLS) as killed:
                    rounds = 0
                    while not killed.done() or rounds == 0:  # work for as long as there are kills
                        rounds += 1
                        await asyncio.gather(*(client() for _ in range(CLIENTS)))
                        if killed.done() or len(ended) >= 20 * RUNS:
                            break
                        numbers = iter(range(CLIENTS))
                    await killed
                paths = [f"/v1/threads/{thread}/runs/{run_id}/events" for thread, run_id in ended]
                streams = [await follow(http, path) for path in chance.sample(paths, 10)]
            for told_events in streams:
                ids = [each.id or 0 for each in told_events]
                assert ids == sorted(set(ids))
                assert told_events[-1].event == "thread.run.completed"
            await asyncio.sleep(3.0)  # until the ledger is shipped
            begun_again = 0
            for thread, run_id in ended:
                runs = await postgres.fetch("select * from runs where thread_id = $1", thread)
                assert [row["id"] for row in runs] == [run_id]
                order = "order by created_at, seq"
                messages = await postgres.fetch(
                    f"select * from messages where thread_id = $1 {order}", thread
                )
                steps = await postgres.fetch(
                    f"select * from run_steps where run_id = $1 {order}", run_id
                )
                check_thread(list(map(dict, messages)), dict(runs[0]), list(map(dict, steps)))
            rows = await postgres.fetch("select attempts, fence from jobs where kind = 'run'")
            begun_again = sum(row["fence"] > 1 for row in rows)
            assert begun_again > 0, "nobody who worked was killed"
            await check_ledger(postgres, await engine.counts())
            print(f"{len(ended)} runs, {KILLS} kills, {begun_again} legs begun again")
            assert [await program.stop() for program in running[1:]] == [0, 0]
        finally:
            await asyncio.gather(*(program.kill() for program in running))
            await postgres.aclose()
