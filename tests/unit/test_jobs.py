"""The pure parts of jobs: shares, words, answers, envelopes, what becomes of a failure."""

import asyncio
import contextlib
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from api_server.errors import (
    ApiError,
    AppCodeError,
    BodyTooLargeError,
    ContextLengthError,
    DependencyDownError,
    EngineBusyError,
    EngineTimeoutError,
    InferenceError,
    InternalError,
    InvalidRequestError,
    JobNotFoundError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotAllowedError,
    OverloadedError,
    QueueFullError,
    QueueTimeoutError,
    RateLimitedError,
    RequestTypeError,
    RouteNotFoundError,
    TurnOverError,
    envelope_for,
)
from api_server.schemas.apps import Policy, Priority
from api_server.services.jobs.answers import answer_of, batch_answer, read_cursor
from api_server.services.jobs.asking import caller_of, new_record
from api_server.services.jobs.gathering import Gathering
from api_server.services.jobs.reading import read_batch, read_request
from api_server.services.jobs.trouble import Failed, PutOff, outcome_of, pause_seconds
from api_server.services.jobs.waiting import class_of, step_of, wait_seconds, words
from api_server.services.jobs.watching import MOST_OF_ONE_JOB, Watching
from api_server.stores.jobs import Job, Taken

JOB = Job(
    id="job_x",
    app_id="app_a",
    user=None,
    state="queued",
    request_type="t",
    model="m",
    batch_id=None,
    item=0,
    error_code=None,
    message=None,
    retry_possible=None,
    response=None,
    created_at=datetime(2026, 11, 21, tzinfo=UTC),
    finished_at=None,
    position=5,
)


TAKEN = Taken(
    id="job_secret",
    app_id="app_a",
    user="ann",
    request_type="t",
    chat="{}",
    model="m",
    priority="batch",
    attempts=1,
    fence=7,
    seconds_left=9,
    waited_seconds=0,
    app_name="shop",
    policy=None,
    is_revoked=False,
)


def test_a_job_is_asked_for_as_its_app_and_class_and_counted_once() -> None:
    policy = Policy(rate_limits=["1/hour"], priority="interactive", weight=3, models=["m"])
    caller = caller_of(replace(TAKEN, policy=policy.model_dump_json()))
    assert (caller.app.id, caller.app.name, caller.user) == ("app_a", "shop", "ann")
    assert caller.was_counted
    assert caller.app.policy == policy.model_copy(update={"priority": "batch"})
    assert caller_of(TAKEN).app.policy == Policy(priority="batch")


def test_an_engine_or_a_log_learns_nothing_of_the_id_that_opens_the_result() -> None:
    record = new_record(TAKEN, "/ai_request")
    assert "secret" not in record.request_id
    assert record.request_id == new_record(TAKEN, "/ai_request").request_id
    assert record.request_id != new_record(replace(TAKEN, fence=8), "/ai_request").request_id
    assert (record.route, record.app, record.user) == ("/ai_request", "shop", "ann")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "not known yet"),
        (0, "less than a minute"),
        (59.9, "less than a minute"),
        (60, "1-2 minutes"),
        (150, "2-3 minutes"),
        (599, "9-10 minutes"),
        (600, "10-15 minutes"),
        (3599, "55-60 minutes"),
        (3600, "1-2 hours"),
        (86_399, "23-24 hours"),
        (86_400, "more than a day"),
    ],
)
def test_a_wait_in_a_persons_words(seconds: float | None, said: str) -> None:
    assert words(seconds) == said


def test_a_wait_is_what_stands_before_by_what_is_done_at_once() -> None:
    assert wait_seconds(8, 4, 30.0) == 60
    assert wait_seconds(8, 0, 30.0) is None
    assert wait_seconds(8, 4, None) is None


def test_the_step_is_the_less_the_more_one_may_have() -> None:
    assert step_of(1, "default") == 4 * step_of(1, "interactive") == 250_000
    assert step_of(1, "batch") == 1_000_000
    assert step_of(2, "default") == 125_000
    assert 0 < step_of(100, "interactive") < step_of(0.01, "batch") < 2**31


@pytest.mark.parametrize(
    ("wanted", "own", "got"),
    [
        (None, "default", "default"),
        ("batch", "default", "batch"),
        ("interactive", "default", "default"),
        ("interactive", "interactive", "interactive"),
        ("default", "batch", "batch"),
    ],
)
def test_no_job_is_more_urgent_than_its_app(
    wanted: Priority | None, own: Priority, got: Priority
) -> None:
    assert class_of(wanted, own) == got


def test_the_shapes_of_the_requirements() -> None:
    assert answer_of(JOB, 150) == {
        "status": "queued",
        "position": 5,
        "estimated_wait_time": "2-3 minutes",
        "message": "Request is in queue",
    }
    running = replace(JOB, state="processing", position=None)
    assert answer_of(running, None) == {
        "status": "processing",
        "message": "Request is currently being processed",
    }
    done = replace(JOB, state="completed", response='{"ai_response": "\\u0000"}')
    assert msgspec.json.decode(msgspec.json.encode(answer_of(done, None))) == {
        "status": "completed",
        "response": {"ai_response": "\0"},
    }
    failed = replace(JOB, error_code="TIMEOUT", message="late", retry_possible=True)
    for state in ("error", "expired"):
        assert answer_of(replace(failed, state=state), None) == {
            "status": "error",
            "error_code": "TIMEOUT",
            "message": "late",
            "retry_possible": True,
        }


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (("queued", "queued"), "queued"),
        (("queued", "completed"), "processing"),
        (("processing", "error"), "processing"),
        (("completed", "completed"), "completed"),
        (("completed", "expired"), "error"),
        (("cancelled",), "error"),
    ],
)
def test_a_batch_is_as_far_as_its_jobs(states: tuple[str, ...], status: str) -> None:
    assert batch_answer("batch_x", [{"state": state} for state in states])["status"] == status


BEFORE_TIME = b64encode(b"0001-01-01T00:00:00+23:59 job").decode()
AFTER_TIME = b64encode(b"9999-12-31T23:59:59-23:59 job").decode()


@pytest.mark.parametrize(
    "text", ["", "odd", "b2Rk", "\xff", "MjAyNiBqb2I=", BEFORE_TIME, AFTER_TIME]
)
def test_a_cursor_that_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        read_cursor(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("x"), "INVALID_REQUEST"),
        (RequestTypeError("x"), "UNSUPPORTED_REQUEST_TYPE"),
        (AppCodeError("x"), "INVALID_APP_CODE"),
        (NotAllowedError("x"), "INVALID_APP_CODE"),
        (JobNotFoundError("x"), "REQUEST_NOT_FOUND"),
        (RouteNotFoundError("x"), "REQUEST_NOT_FOUND"),
        (MethodNotAllowedError("x"), "INVALID_REQUEST"),
        (BodyTooLargeError("x"), "INVALID_REQUEST"),
        (RateLimitedError("x"), "RATE_LIMITED"),
        (QueueFullError("x"), "QUEUE_FULL"),
        (DependencyDownError("x"), "SERVICE_UNAVAILABLE"),
        (InternalError("x"), "INTERNAL_ERROR"),
    ],
)
def test_each_family_of_paths_has_its_envelope(error: ApiError, code: str) -> None:
    told = {"status": "error", "error_code": code, "message": error.message}
    for path in ("/ai_request", "/ai_request/batch", "/get_request/job_x", "/requests/"):
        assert envelope_for(path, error) == told
    for path in ("/v1/chat/completions", "/", "/requests_of_others", "/health"):
        assert envelope_for(path, error) == error.envelope()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OverloadedError("x", retry_after_seconds=7), PutOff("model", 7)),
        (EngineBusyError("x"), PutOff("model", 0)),
        (QueueTimeoutError("x"), PutOff("model", 0)),
        (RateLimitedError("x", retry_after_seconds=9), PutOff("app", 9)),
        (TurnOverError("x", retry_after_seconds=1), PutOff("app", 1, is_trouble=False)),
        (DependencyDownError("redis"), PutOff("all", 1)),
        (ContextLengthError(9, 8), Failed("INVALID_REQUEST", retry_possible=False)),
        (ModelNotFoundError("x"), Failed("INVALID_REQUEST", retry_possible=False)),
        (EngineTimeoutError("x"), Failed("TIMEOUT", retry_possible=True)),
        (InferenceError("x"), Failed("AI_SERVICE_ERROR", retry_possible=True)),
        (InternalError("x"), Failed("AI_SERVICE_ERROR", retry_possible=True)),
    ],
)
def test_what_becomes_of_a_failure(error: ApiError, outcome: PutOff | Failed) -> None:
    assert outcome_of(error) == outcome


def test_pauses_grow_and_end_and_honour_what_was_asked_for() -> None:
    assert [0.5 * 2**n <= pause_seconds(n, 0) <= 0.625 * 2**n for n in range(6)] == [True] * 6
    assert 30 <= pause_seconds(1000, 0) <= 37.5
    assert 60 <= pause_seconds(0, 60) <= 75


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"request": "x"}', "request_type is required"),
        (b'{"request_type": "t"}', "request is required"),
        (b'{"request_type": "t", "request": ""}', "request: "),
        (b'{"request_type": "t\\u0000", "request": "x"}', "request_type: "),
        (b'{"request_type": "t\\n", "request": "x"}', "request_type: "),
        (b'{"request_type": "t", "request": "x", "idempotency_key": "k\\n"}', "idempotency_key: "),
        (b'{"request_type": "t", "request": 5}', "request: expected 'str', got 'int'"),
        (b'{"request_type": "t", "request": "x", "priority": "now"}', "priority: "),
        (b'{"request_type": "t", "request": "x", "idempotency_key": " "}', "idempotency_key: "),
        (b"\xff", "not valid JSON"),
    ],
)
def test_a_body_that_is_wrong_is_told_where(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_request(body)
    assert says in caught.value.message


def test_a_batch_has_a_bound() -> None:
    item = {"request_type": "t", "request": "x"}
    assert len(read_batch(msgspec.json.encode({"requests": [item] * 1000})).requests) == 1000
    for items in ([], [item] * 1001):
        with pytest.raises(InvalidRequestError, match="requests"):
            read_batch(msgspec.json.encode({"requests": items}))


async def test_what_comes_together_is_written_together() -> None:
    batches: list[list[int]] = []

    async def write(items: list[int]) -> list[int]:
        batches.append(items)
        await asyncio.sleep(0.01)
        return [2 * item for item in items]

    gathering: Gathering[int, int] = Gathering(write)
    assert await asyncio.gather(*(gathering.put(n) for n in range(700))) == list(range(0, 1400, 2))
    assert [len(batch) for batch in batches] == [500, 200]
    assert await gathering.put(1) == 2


async def test_one_that_cannot_be_written_spoils_it_for_nobody() -> None:
    async def write(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError
        return items

    gathering: Gathering[int, int] = Gathering(write)
    ends = await asyncio.gather(*(gathering.put(n) for n in range(6)), return_exceptions=True)
    assert [n for n, end in enumerate(ends) if isinstance(end, ValueError)] == [3]


async def test_an_outage_is_told_to_all_at_once() -> None:
    tries = 0

    async def write(_: list[int]) -> list[int]:
        nonlocal tries
        tries += 1
        raise DependencyDownError("postgres")

    gathering: Gathering[int, int] = Gathering(write)
    ends = await asyncio.gather(*(gathering.put(n) for n in range(6)), return_exceptions=True)
    assert all(isinstance(end, DependencyDownError) for end in ends)
    assert tries == 1


async def test_one_job_does_not_take_the_places_of_all_watchers() -> None:
    async def find(ids: object) -> dict[str, Job]:  # noqa: ARG001
        return {}

    watching = Watching(find, 1000)
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_OF_ONE_JOB):
            stack.enter_context(watching.watch("job_known"))
        with pytest.raises(OverloadedError), watching.watch("job_known"):
            pass
        stack.enter_context(watching.watch("job_other"))


async def test_who_watches_slowly_sees_the_newest_only() -> None:
    job = JOB

    async def find(ids: object) -> dict[str, Job]:  # noqa: ARG001
        return {JOB.id: job}

    watching = Watching(find, 1)
    running = asyncio.create_task(watching.run())
    try:
        with watching.watch(JOB.id) as watcher:
            with pytest.raises(OverloadedError), watching.watch(JOB.id):
                pass
            assert await watcher.next_change() == job
            for position in (4, 3, 2):
                job = replace(JOB, position=position)
                watching.wake()
                await asyncio.sleep(0.1)
            assert await watcher.next_change() == job
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watcher.next_change(), 0.7)
        with watching.watch("job_gone") as watcher:
            assert await watcher.next_change() is None
    finally:
        running.cancel()
