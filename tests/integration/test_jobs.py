"""The jobs API from outside: a gateway with PostgreSQL in front of the fake engine."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_engine import FakeEngine, running_engine
from tests.integration.conftest import running_gateway
from tests.samples import samples

JOBS = {"lease_seconds": 1}


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with running_engine() as engine:
        yield engine


@pytest.fixture
async def http(
    tmp_path: Path, engine: FakeEngine, postgres_url: str
) -> AsyncIterator[httpx.AsyncClient]:
    variables = {"POSTGRES_URL": postgres_url, "AUTH": "off", "ENVIRONMENT": "development"}
    async with (
        running_gateway(tmp_path, engine, variables=variables, jobs=JOBS) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        yield http


async def send(http: httpx.AsyncClient, **fields: Any) -> str:
    body = {"app_code": "any", "request_type": "explain", "request": "What is a queue?"} | fields
    answer = await http.post("/ai_request", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said | {"request_id": ""} == {
        "status": "success",
        "request_id": "",
        "message": "Request queued successfully",
    }
    id_: str = said["request_id"]
    assert len(id_) >= 36
    return id_


async def ended(http: httpx.AsyncClient, id_: str, seconds: float = 8) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        answer = await http.get(f"/get_request/{id_}")
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        if said["status"] in ("completed", "error"):
            return said
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.02)


async def test_a_job_is_accepted_and_completed(http: httpx.AsyncClient) -> None:
    said = await ended(http, await send(http))
    assert said["status"] == "completed"
    response = said["response"]
    assert set(response) == {"ai_response", "model_used", "completion_time", "token_usage"}
    assert response["ai_response"]
    assert response["model_used"] == "fake"
    time.strptime(response["completion_time"], "%Y-%m-%dT%H:%M:%SZ")
    usage = response["token_usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] > 0


async def position(http: httpx.AsyncClient, id_: str) -> dict[str, Any]:
    said: dict[str, Any] = (await http.get(f"/get_request/{id_}")).json()
    return said


async def until_processing(http: httpx.AsyncClient, id_: str) -> None:
    async with asyncio.timeout(5):
        while (await position(http, id_))["status"] != "processing":
            await asyncio.sleep(0.02)


async def test_those_that_wait_know_their_position(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.obey(pause=0.4, tokens=3)
    ids = [await send(http) for _ in range(4)]
    await until_processing(http, ids[3])
    assert await position(http, ids[0]) == {
        "status": "processing",
        "message": "Request is currently being processed",
    }
    engine.obey(pause=0.4, tokens=6)
    ids += [await send(http) for _ in range(8)]
    await until_processing(http, ids[7])
    said = await asyncio.gather(*(position(http, id_) for id_ in ids))
    waiting = [each for each in said if each["status"] == "queued"]
    assert [each["position"] for each in waiting] == [1, 2, 3, 4]
    assert waiting[0].keys() == {"status", "position", "estimated_wait_time", "message"}
    engine.obey(first_pause=0.2)
    for id_ in ids:
        assert (await ended(http, id_))["status"] == "completed"
    last = [await send(http) for _ in range(40)][-1]
    while (now := await position(http, last))["estimated_wait_time"] == "not known yet":
        await asyncio.sleep(0.1)
    assert now["estimated_wait_time"] == "less than a minute"


async def test_a_request_type_has_its_own_prompt(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ended(http, await send(http, request="Hello \u0000 \U0001f600 {request}"))
    body = engine.bodies[-1]
    assert body["messages"] == [{"role": "user", "content": "Hello \u0000 \U0001f600 {request}"}]
    assert (body["temperature"], body["max_tokens"]) == (0.7, 1000)


async def test_an_idempotency_key_gives_the_same_job(http: httpx.AsyncClient) -> None:
    first = await send(http, idempotency_key="order-1")
    assert await send(http, idempotency_key="order-1") == first
    body = {"app_code": "x", "request_type": "explain", "request": "What is a queue?"}
    answer = await http.post("/ai_request", json=body, headers={"idempotency-key": "order-1"})
    assert answer.json()["request_id"] == first
    answer = await http.post(
        "/ai_request", json=body | {"idempotency_key": "order-1"} | {"request": "?"}
    )
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_REQUEST")


async def test_a_key_that_stands_for_another_batch_leaves_nothing_behind(
    http: httpx.AsyncClient,
) -> None:
    async def put(key: str, *requests: str) -> httpx.Response:
        items = [{"request_type": "explain", "request": request} for request in requests]
        body = {"app_code": "x", "requests": items, "idempotency_key": key}
        return await http.post("/ai_request/batch", json=body)

    async def jobs() -> int:
        return len((await http.get("/requests", headers={"x-app-code": "x"})).json()["requests"])

    first = await put("order", "1", "2")
    assert first.status_code == 200
    assert (await put("order", "1", "2")).json() == first.json()
    for others in (("1", "2", "3", "4"), ("1",), ("2", "1")):  # longer, shorter, in another order
        answer = await put("order", *others)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert await jobs() == 2
    for key in ("order#1", "order"):  # a single request has nothing to do with the batch
        await send(http, idempotency_key=key)
    assert (await put("order#1", "1")).status_code == 200
    assert await jobs() == 5


async def test_an_engine_that_fails_is_an_error_that_may_be_retried(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.obey(fault="garbage")
    id_ = await send(http)
    said = await ended(http, id_)
    assert (said["status"], said["error_code"]) == ("error", "AI_SERVICE_ERROR")
    assert said["retry_possible"] is True
    assert said["message"]
    engine.obey()
    again = await http.post(f"/get_request/{id_}/retry")
    assert (again.status_code, again.json()["status"]) == (200, "success")
    assert (await ended(http, id_))["status"] == "completed"
    refused = await http.post(f"/get_request/{id_}/retry")
    assert (refused.status_code, refused.json()["error_code"]) == (409, "INVALID_REQUEST")


async def test_what_an_engine_cannot_do_is_not_retried(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.obey(fault="too_long")
    said = await ended(http, await send(http))
    assert (said["error_code"], said["retry_possible"]) == ("INVALID_REQUEST", False)


async def test_a_busy_engine_only_delays(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.obey(fault="loading_503", for_requests=20)
    ids = [await send(http) for _ in range(6)]
    await asyncio.sleep(1.0)
    engine.obey()
    for id_ in ids:
        assert (await ended(http, id_, 20))["status"] == "completed"


async def test_cancelling_frees_the_engine_within_a_second(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.obey(first_pause=0.3, pause=0.4, tokens=20)
    id_ = await send(http)
    async with asyncio.timeout(5):
        while not engine.running:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    answer = await http.post(f"/get_request/{id_}/cancel")
    assert answer.json() == {
        "status": "success",
        "request_id": id_,
        "message": "Request cancelled",
    }
    while engine.running or not engine.cancelled:
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 1
    said = await ended(http, id_)
    assert (said["error_code"], said["retry_possible"]) == ("CANCELLED", False)
    assert (await http.post(f"/get_request/{id_}/cancel")).status_code == 200


async def test_a_batch_is_accepted_as_a_whole(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    items = [{"request_type": "explain", "request": f"{n}"} for n in range(5)]
    broken = [*items, {"request_type": "explain", "request": ""}]
    refused = await http.post("/ai_request/batch", json={"app_code": "x", "requests": broken})
    assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_REQUEST")
    assert (await http.get("/requests")).json()["requests"] == []
    engine.obey(fault="garbage", for_requests=2)
    answer = await http.post("/ai_request/batch", json={"app_code": "x", "requests": items})
    said = answer.json()
    batch_id, ids = said["batch_id"], said["request_ids"]
    assert len(set(ids)) == 5
    ends = [await ended(http, id_) for id_ in ids]
    assert sum(end["status"] == "completed" for end in ends) == 3
    batch = await position(http, batch_id)
    assert (batch["status"], batch["counts"]["completed"], batch["counts"]["error"]) == (
        "error",
        3,
        2,
    )
    before = engine.finished
    again = (await http.post(f"/get_request/{batch_id}/retry")).json()
    assert len(again["requests"]) == 2
    for id_ in ids:
        assert (await ended(http, id_))["status"] == "completed"
    assert engine.finished == before + 2
    assert (await position(http, batch_id))["status"] == "completed"


async def test_the_history_has_pages(http: httpx.AsyncClient) -> None:
    ids = [await send(http) for _ in range(5)]
    for id_ in ids:
        await ended(http, id_)
    seen: list[str] = []
    after = None
    while True:
        parameters = {"limit": "2", "state": "completed"} | ({"after": after} if after else {})
        page = (await http.get("/requests", params=parameters)).json()
        seen += [line["request_id"] for line in page["requests"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ids[::-1]
    assert (await http.get("/requests", params={"state": "odd"})).status_code == 400
    assert (await http.get("/requests", params={"after": "odd"})).status_code == 400
    assert (await http.get("/requests", params={"limit": "many"})).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/ai_request", b"{", 400, "INVALID_REQUEST"),
        ("POST", "/ai_request", b"[]", 400, "INVALID_REQUEST"),
        ("POST", "/ai_request", b'{"request": "x"}', 400, "INVALID_REQUEST"),
        ("POST", "/ai_request", b'{"request": "\xff"}', 400, "INVALID_REQUEST"),
        ("POST", "/ai_request", b"[" * 90_000, 400, "INVALID_REQUEST"),
        ("POST", "/ai_request", b" " * 11_000_000, 413, "INVALID_REQUEST"),
        ("GET", "/ai_request", b"", 405, "INVALID_REQUEST"),
        ("GET", "/get_request/job_nobody", b"", 404, "REQUEST_NOT_FOUND"),
        ("GET", "/get_request/batch_nobody", b"", 404, "REQUEST_NOT_FOUND"),
        ("GET", "/get_request/%00", b"", 404, "REQUEST_NOT_FOUND"),
        ("GET", "/get_request/';drop table jobs;--", b"", 404, "REQUEST_NOT_FOUND"),
        ("POST", "/get_request/job_nobody/cancel", b"", 404, "REQUEST_NOT_FOUND"),
        ("POST", "/get_request/job_nobody/retry", b"", 404, "REQUEST_NOT_FOUND"),
        ("GET", "/get_request", b"", 404, "REQUEST_NOT_FOUND"),
        ("GET", "/requests?request_type=%00", b"", 400, "INVALID_REQUEST"),
    ],
)
async def test_every_error_is_in_the_familys_envelope(
    http: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    answer = await http.request(method, path, content=body)
    said = answer.json()
    assert (answer.status_code, said["error_code"]) == (status, code), said
    assert said.keys() == {"status", "error_code", "message"}
    assert (said["status"], bool(said["message"])) == ("error", True)


async def test_a_text_that_no_utf8_can_hold_is_refused(http: httpx.AsyncClient) -> None:
    body = rb'{"app_code": "x", "request_type": "t", "request": "\ud800"}'
    assert (await http.post("/ai_request", content=body)).status_code == 400
    assert (await ended(http, await send(http)))["status"] == "completed"


async def test_a_text_beyond_the_bound_of_jobs_is_refused(http: httpx.AsyncClient) -> None:
    await send(http, request="x" * 262_144)
    body = {"app_code": "any", "request_type": "explain", "request": "ä" * 131_073}
    answer = await http.post("/ai_request", json=body)
    assert answer.status_code == 413
    assert answer.json()["error_code"] == "INVALID_REQUEST"
    assert "262144 are the most" in answer.json()["message"]


async def test_errors_elsewhere_stay_openais(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/nowhere")).json()["error"]["code"] == "route_not_found"


async def test_metrics_tell_of_jobs(http: httpx.AsyncClient) -> None:
    await ended(http, await send(http))
    await asyncio.sleep(1.2)
    text = (await http.get("/metrics")).text
    assert 'llm_gateway_jobs{state="queued"} 0' in text
    assert 'llm_gateway_job_seconds_count{kind="run"} 1' in text
    duration = "gen_ai_server_request_duration_seconds_count"
    counted = {key[2]: n for key, n in samples(text.encode()).items() if key[0] == duration}
    assert counted == {"chat": 0, "job": 1}, "nobody waits for a job"


async def test_without_a_database_there_are_no_jobs(tmp_path: Path, engine: FakeEngine) -> None:
    async with (
        running_gateway(tmp_path, engine) as (_, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = await http.get("/get_request/job_x")
        assert (answer.status_code, answer.json()["error_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert "POSTGRES_URL" in answer.json()["message"]
        assert answer.headers["retry-after"]
