"""A worker on its own, with a model that the test plays."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import pytest

from api_server.errors import OverloadedError, RateLimitedError
from api_server.observability.record import RequestRecord
from api_server.services.client import Client
from api_server.services.jobs.asking import ChatJobs
from api_server.services.jobs.room import JobRoom
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.tally import Tally
from api_server.services.jobs.watching import Watching
from api_server.services.jobs.worker import Worker
from api_server.stores.jobs import End, Job, JobStore
from tests.job_rows import job_store, new_job, put, take

ANSWER = msgspec.json.encode(
    {
        "choices": [{"message": {"content": "yes"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
)


class Model:
    """Answers after a while, or raises what it was told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.seconds = 0.0
        self.errors: list[Exception] = []

    async def chat(self, body: bytes, client: Client, record: RequestRecord) -> None:  # noqa: ARG002
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        await asyncio.sleep(self.seconds)
        await client.answer(ANSWER)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[JobStore]:
    async with job_store(postgres_url) as store:
        yield store


class Working:
    """A worker that runs as long as this lasts."""

    def __init__(self, store: JobStore, model: Model, rules: Rules, slots: int = 2) -> None:
        self.records: list[RequestRecord] = []
        self.observed = 0
        self.worker = Worker(
            *(store, ChatJobs(model), rules, slots),
            ended=self.records.append,
            observe=self._observe,
        )

    def _observe(self, _waited: float, _ran: float) -> None:
        self.observed += 1

    async def __aenter__(self) -> "Working":
        self._task = asyncio.create_task(self.worker.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        await self.worker.drain(0.0)


async def when(store: JobStore, id_: str, claim: Callable[[Job], bool], seconds: float = 8) -> Job:
    async with asyncio.timeout(seconds):
        while not claim(job := (await store.find([id_]))[id_]):
            await asyncio.sleep(0.02)
    return job


async def test_one_that_is_held_twice_is_ended_once(store: JobStore) -> None:
    """Its lease ended behind its back, and it took the job up again itself."""
    model = Model()
    model.seconds = 2.5
    async with Working(store, model, Rules(lease_seconds=60)) as working:
        (id_,) = await put(store, new_job())
        working.worker.wake()
        await when(store, id_, lambda job: job.state == "processing")
        await asyncio.sleep(1.2)  # it has extended its leases for now
        await store.postgres.execute("update jobs set lease_until = now() - interval '1 s'")
        working.worker.wake()
        job = await when(store, id_, lambda job: job.state == "completed")
        await asyncio.sleep(0.2)
    assert model.asked == 2
    assert job.response is not None
    assert [record.outcome for record in working.records] == ["error", "ok"]


async def test_an_app_beyond_its_limit_delays_no_other(store: JobStore) -> None:
    model = Model()
    model.errors = [RateLimitedError("wait", retry_after_seconds=3)]
    async with Working(store, model, Rules(), slots=1) as working:
        slow, *_ = await put(store, *(new_job("slow") for _ in range(5)))
        working.worker.wake()
        await asyncio.sleep(0.5)
        (quick,) = await put(store, new_job("quick"))
        working.worker.wake()
        await when(store, quick, lambda job: job.state == "completed", 2)
        assert (await store.find([slow]))[slow].state == "processing"
        assert (await store.counts()).queued == 4, "those behind it keep their places"
        await when(store, slow, lambda job: job.state == "completed")


async def test_a_model_without_room_gets_a_pause_and_its_jobs_no_error(store: JobStore) -> None:
    model = Model()
    model.errors = [OverloadedError("full") for _ in range(3)]
    async with Working(store, model, Rules(max_attempts=1)) as working:
        ids = await put(store, *(new_job() for _ in range(6)))
        working.worker.wake()
        for id_ in ids:
            await when(store, id_, lambda job: job.state == "completed", 12)
    assert model.asked == 6 + 3


async def test_a_job_that_takes_too_long_ends_as_a_time_out(store: JobStore) -> None:
    model = Model()
    model.seconds = 30
    async with Working(store, model, Rules(timeout_seconds=0.5)) as working:
        (id_,) = await put(store, new_job())
        working.worker.wake()
        job = await when(store, id_, lambda job: job.state == "error", 3)
    assert (job.error_code, job.retry_possible) == ("TIMEOUT", True)
    assert [record.outcome for record in working.records] == ["error"]


async def test_a_defect_ends_the_job_and_not_the_worker(store: JobStore) -> None:
    model = Model()
    model.errors = [ZeroDivisionError("a secret")]
    async with Working(store, model, Rules(), slots=1) as working:
        broken, whole = await put(store, new_job(), new_job())
        working.worker.wake()
        job = await when(store, broken, lambda job: job.state == "error")
        await when(store, whole, lambda job: job.state == "completed")
    assert job.error_code == "AI_SERVICE_ERROR"
    assert "secret" not in (job.message or "")


async def test_what_was_given_back_can_be_taken_at_once(store: JobStore) -> None:
    model = Model()
    model.seconds = 30
    async with Working(store, model, Rules()) as working:
        (id_,) = await put(store, new_job())
        working.worker.wake()
        await when(store, id_, lambda job: job.state == "processing")
    assert [job.id for job in await take(store)] == [id_]


async def test_whoever_writes_an_end_down_is_not_stopped(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, may_go_on = asyncio.Event(), asyncio.Event()
    finish = store.finish

    async def slow_finish(ends: Sequence[End]) -> set[str]:
        writing.set()
        await may_go_on.wait()
        return await finish(ends)

    monkeypatch.setattr(store, "finish", slow_finish)
    (id_,) = await put(store, new_job())
    async with Working(store, Model(), Rules()) as working:
        await asyncio.wait_for(writing.wait(), 5)
        working.worker.stop_job(id_)
        await asyncio.sleep(0.05)
        may_go_on.set()
        await when(store, id_, lambda job: job.state == "completed")
        async with asyncio.timeout(5):
            while not working.observed:
                await asyncio.sleep(0.01)


async def test_a_job_that_takes_longer_than_its_lease_is_kept_by_its_worker(
    store: JobStore,
) -> None:
    model, rules = Model(), Rules(lease_seconds=0.6)
    model.seconds = 1.5
    (id_,) = await put(store, new_job())
    async with Working(store, model, rules), Working(store, model, rules):
        await when(store, id_, lambda job: job.state == "completed")
    assert model.asked == 1


async def test_many_that_find_no_room_together_make_one_pause(store: JobStore) -> None:
    model = Model()
    model.errors = [OverloadedError("full", retry_after_seconds=0.1) for _ in range(6)]
    ids = await put(store, *(new_job() for _ in range(6)))
    async with Working(store, model, Rules(), slots=6):
        for id_ in ids:
            await when(store, id_, lambda job: job.state == "completed", seconds=4)


class Broken(Worker):
    """Cannot end as it should."""

    async def drain(self, seconds: float) -> None:  # noqa: ARG002
        raise RuntimeError("a defect")


async def test_a_worker_that_does_not_drain_takes_no_time_from_the_others(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    model, rules = Model(), Rules()
    model.seconds = 0.5
    workers = [
        kind(store, ChatJobs(model), rules, slots, ended=lambda _: None, observe=lambda *_: None)
        for kind, slots in ((Broken, 0), (Worker, 1))
    ]
    room = JobRoom(store, rules, Tally(), Watching(store.find, 1), workers)
    await put(store, job := new_job())
    room.start()
    await when(store, job.id, lambda _: model.asked == 1)
    room.begin_drain(5)
    await room.aclose()
    assert (await store.find([job.id]))[job.id].state == "completed"
    assert "a worker did not drain" in caplog.text
