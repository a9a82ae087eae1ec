"""1,000 jobs while the gateway and the workers are killed at random, none of them asked first."""

import asyncio
import math
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.local.process import free_port
from api_server.stores.postgres import Postgres
from tests.job_programs import programs
from tests.replicas import running_replicas

JOBS = 1000
KILLS = 12
PATIENCE_SECONDS = 75
ORDER = ["queued", "processing", "completed"]

COUNTING = """
create table completions (job_id text, at timestamptz default clock_timestamp());
create function count_completion() returns trigger language plpgsql as $$
begin insert into completions (job_id) values (new.id); return null; end $$;
create trigger completed after update on jobs for each row
    when (new.state = 'completed') execute function count_completion();
"""
"""Every single write of a result leaves a row here, whoever writes it."""


async def persistently(http: httpx.AsyncClient, method: str, path: str, **said: Any) -> Any:
    """Ask until the gateway answers: it is killed now and then."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = await http.request(method, path, **said)
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code in (429, 503), answer.text
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the gateway does not come back"
        await asyncio.sleep(0.1)


async def accept_all(http: httpx.AsyncClient) -> list[str]:
    """Clients that send again with the same key whenever they got no answer."""
    ids: dict[int, str] = {}
    numbers = iter(range(JOBS))

    async def client() -> None:
        for number in numbers:
            body = {"app_code": "x", "request_type": "t", "request": f"number {number}"}
            body["idempotency_key"] = f"number-{number}"
            said = await persistently(http, "POST", "/ai_request", json=body)
            ids[number] = said["request_id"]

    await asyncio.gather(*(client() for _ in range(8)))
    return [ids[number] for number in range(JOBS)]


async def watch(http: httpx.AsyncClient, id_: str) -> list[str]:
    """What went backwards in the life of one job, up to its end."""
    wrong: list[str] = []
    last: tuple[int, float] = (0, -math.inf)
    while last[0] < ORDER.index("completed"):
        said = await persistently(http, "GET", f"/get_request/{id_}")
        now: tuple[int, float] = (ORDER.index(said["status"]), -said.get("position", 0))
        if now < last:
            wrong.append(f"{id_}: {last} and then {now}")
        last = now
        await asyncio.sleep(0.15)
    return wrong


@pytest.mark.timeout(PATIENCE_SECONDS + 30)
async def test_every_job_is_completed_once_however_many_are_killed(
    tmp_path: Path, postgres_url: str
) -> None:
    chance = random.Random(2026)
    postgres = Postgres(postgres_url)
    await postgres.execute(COUNTING)
    async with running_replicas(1) as (engine,), asyncio.timeout(PATIENCE_SECONDS + 20):
        await engine.order(first_pause=0.1, tokens=2)
        jobs = {"workers": 3, "worker_slots": 6, "lease_seconds": 1, "max_attempts": 50}
        port = free_port()
        verbs = ("serve", "worker", "worker")
        running = programs(tmp_path, engine, postgres_url, port, verbs, jobs=jobs)
        try:
            await asyncio.gather(*(program.start() for program in running))
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=5) as http:

                async def kill_at_random() -> None:
                    for _ in range(KILLS):
                        await asyncio.sleep(chance.uniform(0.8, 2.0))
                        victim = chance.choice(running)
                        await victim.kill()
                        await victim.start()

                killing = asyncio.create_task(kill_at_random())
                ids = await accept_all(http)
                assert len(set(ids)) == JOBS
                watched = await asyncio.gather(
                    *(watch(http, id_) for id_ in chance.sample(ids, 40))
                )
                assert [line for lines in watched for line in lines] == []
                await killing
                left = "select count(*) as n from jobs where state <> 'completed'"
                while (await postgres.fetch(left))[0]["n"]:
                    await asyncio.sleep(0.2)
                for id_ in chance.sample(ids, 20):
                    said = await persistently(http, "GET", f"/get_request/{id_}")
                    assert said["status"] == "completed"
            once = await postgres.fetch(
                "select count(*) as written, count(distinct job_id) as jobs from completions"
            )
            assert dict(once[0]) == {"written": JOBS, "jobs": JOBS}
            rows = await postgres.fetch("select id, attempts from jobs")
            assert {row["id"] for row in rows} == set(ids)
            begun_again = sum(row["attempts"] - 1 for row in rows)
            asked = (await engine.counts()).request_ids
            assert JOBS <= len(asked) <= JOBS + begun_again
            assert begun_again > 0, "nobody who worked was killed"
            since = (await postgres.fetch("select now() as at"))[0]["at"]
            alive = "select count(*) as n from job_workers where kind = 'chat' and seen_at > $1"
            while (await postgres.fetch(alive, since))[0]["n"] < len(running):
                await asyncio.sleep(0.1)
            assert [await program.stop() for program in running[1:]] == [0, 0]
        finally:
            await asyncio.gather(*(program.kill() for program in running))
            await postgres.aclose()
