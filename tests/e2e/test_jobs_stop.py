"""What becomes of jobs when their worker is asked to stop, and when it hangs."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api_server.local.process import free_port
from api_server.stores.postgres import Postgres
from tests.job_programs import Program, programs
from tests.replicas import Replica, running_replicas, until

BODY = {"app_code": "x", "request_type": "t", "request": "hi"}
JOBS = {"workers": 0, "worker_slots": 2, "lease_seconds": 2}


class Place:
    """A gateway that only accepts, an engine, and workers that a test starts."""

    def __init__(self, folder: Path, engine: Replica, url: str, drain_seconds: float) -> None:
        port = free_port()
        gateway = {"drain_seconds": drain_seconds}
        verbs = ("serve", "worker", "worker")
        started = programs(folder, engine, url, port, verbs, jobs=JOBS, gateway=gateway)
        self.gateway, *self.workers = started
        self.engine = engine
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5)
        self.postgres = Postgres(url)

    async def send(self) -> str:
        id_: str = (await self.http.post("/ai_request", json=BODY)).json()["request_id"]
        return id_

    async def is_in_state(self, id_: str, state: str) -> bool:
        answer = await self.http.get(f"/get_request/{id_}")
        return bool(answer.json()["status"] == state)

    async def attempts(self, id_: str) -> int:
        rows = await self.postgres.fetch("select attempts from jobs where id = $1", id_)
        return int(rows[0]["attempts"])

    async def engine_runs(self) -> bool:
        return (await self.engine.counts()).running > 0

    async def started(self) -> None:
        await self.gateway.start()

        async def is_up() -> bool:
            try:
                return (await self.http.get("/health/live")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_up, 20, "the gateway answers")


@pytest.fixture
async def engine() -> AsyncIterator[Replica]:
    async with running_replicas(1) as (engine,):
        yield engine


async def end(place: Place, *programs_: Program) -> None:
    await asyncio.gather(*(program.kill() for program in (place.gateway, *programs_)))
    await place.http.aclose()
    await place.postgres.aclose()


async def test_a_worker_that_is_asked_to_stop_ends_what_it_does(
    tmp_path: Path, engine: Replica, postgres_url: str
) -> None:
    place = Place(tmp_path, engine, postgres_url, drain_seconds=10)
    worker = place.workers[0]
    try:
        await place.started()
        await worker.start()
        await engine.order(pause=0.4, tokens=5)
        ids = [await place.send() for _ in range(3)]
        await until(place.engine_runs, 20, "a job runs")
        assert await worker.stop() == 0
        states = [await place.is_in_state(id_, "completed") for id_ in ids]
        assert states == [True, True, False]
        assert await place.is_in_state(ids[2], "queued")
        rows = await place.postgres.fetch("select * from job_workers where kind = 'chat'")
        assert rows == []
    finally:
        await end(place, *place.workers)


async def test_what_takes_too_long_to_stop_is_done_by_another(
    tmp_path: Path, engine: Replica, postgres_url: str
) -> None:
    place = Place(tmp_path, engine, postgres_url, drain_seconds=0.5)
    first, second = place.workers
    try:
        await place.started()
        await first.start()
        await engine.order(pause=0.4, tokens=50)
        id_ = await place.send()
        await until(place.engine_runs, 20, "the job runs")
        began = time.monotonic()
        assert await first.stop() == 0
        assert time.monotonic() - began < 5
        assert await place.is_in_state(id_, "processing")
        assert await place.attempts(id_) == 0, "it was given back, and that is no attempt"
        await engine.order()
        await second.start()
        await until(lambda: place.is_in_state(id_, "completed"), 20, "the job is done")
    finally:
        await end(place, *place.workers)


async def test_what_a_worker_that_hangs_says_later_counts_no_more(
    tmp_path: Path, engine: Replica, postgres_url: str
) -> None:
    place = Place(tmp_path, engine, postgres_url, drain_seconds=1)
    first, second = place.workers
    try:
        await place.started()
        await first.start()
        await engine.order(first_pause=1.0)
        id_ = await place.send()
        await until(place.engine_runs, 20, "the job runs")
        first.signal(signal.SIGSTOP)
        await engine.order()
        await second.start()
        await until(lambda: place.is_in_state(id_, "completed"), 20, "the job is done")
        before = (await place.http.get(f"/get_request/{id_}")).json()
        assert await place.attempts(id_) == 2
        first.signal(signal.SIGCONT)
        await asyncio.sleep(2)
        assert (await place.http.get(f"/get_request/{id_}")).json() == before
        rows = await place.postgres.fetch(
            "select count(*) as n from job_workers where kind = 'chat'"
        )
        assert rows[0]["n"] == 2, "it lives and goes on"
    finally:
        await end(place, *place.workers)
