"""Whose jobs they are: codes, keys, what an app may ask for, and what others see of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from api_server.services.access.managing import Issued
from tests.access import Guarded, guarded_gateway, make_app, managed_apps
from tests.job_rows import failed, job_store, take
from tests.stores import PostgresServer, running_postgres

TYPES = {
    "explain": {"prompt": "Explain: {request}", "temperature": 0.1, "max_tokens": 7},
    "quiz": {"system": "You ask.", "prompt": "A quiz on", "model": "nowhere"},
}


@pytest.fixture
async def guarded(tmp_path: Path, postgres_url: str) -> AsyncIterator[Guarded]:
    async with guarded_gateway(tmp_path, postgres_url) as gateway:
        yield gateway


async def app(guarded: Guarded, postgres_url: str, name: str = "shop", **policy: Any) -> Issued:
    """An app that the gateway knows by now."""
    issued = await make_app(postgres_url, name, request_types=TYPES, **policy)
    async with asyncio.timeout(5):
        while (await history(guarded, issued)).status_code != 200:
            await asyncio.sleep(0.02)
    return issued


async def history(guarded: Guarded, issued: Issued) -> httpx.Response:
    return await guarded.http.get("/requests", headers={"x-app-code": issued.app_code or ""})


async def send(guarded: Guarded, **fields: Any) -> httpx.Response:
    body = {"request_type": "explain", "request": "queues"} | fields
    headers = body.pop("headers", {})
    return await guarded.http.post("/ai_request", json=body, headers=headers)


async def ended(guarded: Guarded, id_: str) -> dict[str, Any]:
    deadline = time.monotonic() + 8
    while True:
        said: dict[str, Any] = (await guarded.http.get(f"/get_request/{id_}")).json()
        if said["status"] in ("completed", "error"):
            return said
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.02)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    said = answer.json()
    assert said.keys() == {"status", "error_code", "message"}
    return answer.status_code, said["error_code"]


async def test_an_app_shows_a_code_or_a_key(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url)
    other = await app(guarded, postgres_url, "other")
    key = {"authorization": f"Bearer {shop.key}"}
    for shown in (
        {"app_code": shop.app_code},
        {"headers": {"x-app-code": shop.app_code}},
        {"headers": key},
        {"headers": key, "app_code": shop.app_code},
    ):
        answer = await send(guarded, **shown)
        assert answer.status_code == 200, answer.text
        assert (await ended(guarded, answer.json()["request_id"]))["status"] == "completed"
    assert refusal(await send(guarded)) == (401, "INVALID_APP_CODE")
    assert refusal(await send(guarded, app_code="wrong")) == (401, "INVALID_APP_CODE")
    assert refusal(await send(guarded, app_code=shop.key)) == (401, "INVALID_APP_CODE")
    wrong = {"authorization": f"Bearer {shop.app_code}"}
    assert refusal(await send(guarded, headers=wrong)) == (401, "INVALID_APP_CODE")
    assert refusal(await send(guarded, headers=key, app_code=other.app_code)) == (
        403,
        "INVALID_APP_CODE",
    )


async def test_a_revoked_app_sends_nothing_more(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url)
    async with managed_apps(postgres_url) as apps:
        await apps.revoke("shop")
    async with asyncio.timeout(5):
        while (answer := await send(guarded, app_code=shop.app_code)).status_code == 200:
            await asyncio.sleep(0.02)
    assert refusal(answer) == (401, "INVALID_APP_CODE")


async def test_only_its_own_types_and_models(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url)
    answer = await send(guarded, app_code=shop.app_code, request_type="hack")
    assert refusal(answer) == (400, "UNSUPPORTED_REQUEST_TYPE")
    assert "explain, quiz" in answer.json()["message"]
    answer = await send(guarded, app_code=shop.app_code, request_type="quiz")
    assert refusal(answer) == (400, "UNSUPPORTED_REQUEST_TYPE")
    banned = await app(guarded, postgres_url, "banned", models=["another"])
    answer = await send(guarded, app_code=banned.app_code)
    assert refusal(answer) == (400, "UNSUPPORTED_REQUEST_TYPE")


async def test_what_is_not_accepted_anew_counts_nowhere(tmp_path: Path, postgres_url: str) -> None:
    jobs = {"workers": 0, "queue_size": 1}
    async with guarded_gateway(tmp_path, postgres_url, jobs=jobs) as guarded:
        shop = await app(guarded, postgres_url, rate_limits=["2/hour"])

        async def ask(key: str) -> httpx.Response:
            return await send(guarded, app_code=shop.app_code, idempotency_key=key)

        first = await ask("first")
        assert first.status_code == 200, first.text
        for _ in range(3):
            assert refusal(await ask("other")) == (503, "QUEUE_FULL")
        gone = await guarded.http.post(f"/get_request/{first.json()['request_id']}/cancel")
        assert gone.status_code == 200, gone.text
        for _ in range(3):
            assert (await ask("first")).json() == first.json()
        assert (await ask("second")).status_code == 200
        assert refusal(await ask("third")) == (429, "RATE_LIMITED")


async def test_a_retry_counts_as_a_request_and_needs_room(
    tmp_path: Path, postgres_url: str
) -> None:
    jobs = {"workers": 0, "queue_size": 1}
    async with (
        guarded_gateway(tmp_path, postgres_url, jobs=jobs) as guarded,
        job_store(postgres_url) as store,
    ):
        shop = await app(guarded, postgres_url, rate_limits=["2/hour"])
        other = await app(guarded, postgres_url, "other")

        async def failing(issued: Issued) -> str:
            sent = await send(guarded, app_code=issued.app_code)
            assert sent.status_code == 200, sent.text
            await fail()
            id_: str = sent.json()["request_id"]
            return id_

        async def fail() -> None:
            (job,) = await take(store)
            await store.finish([failed(job)])

        async def retry(id_: str) -> httpx.Response:
            return await guarded.http.post(f"/get_request/{id_}/retry")

        limited, free = await failing(shop), await failing(other)
        assert (await retry(free)).status_code == 200
        assert refusal(await retry(limited)) == (503, "QUEUE_FULL")
        await fail()
        assert (await retry(limited)).status_code == 200
        assert refusal(await retry(limited)) == (409, "INVALID_REQUEST")
        await fail()
        assert refusal(await retry(limited)) == (429, "RATE_LIMITED")


async def test_a_batch_beyond_a_whole_limit_is_told_so(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url, rate_limits=["2/hour"])
    batch = [{"request_type": "explain", "request": str(number)} for number in range(3)]
    body = {"app_code": shop.app_code, "requests": batch}
    answer = await guarded.http.post("/ai_request/batch", json=body)
    assert refusal(answer) == (400, "INVALID_REQUEST")
    assert "3 requests at once" in answer.json()["message"]
    assert "2 requests in 3600 s" in answer.json()["message"]


async def test_a_rate_limit_counts_accepted_jobs_once(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url, rate_limits=["3/hour"])
    ids = []
    for _ in range(3):
        answer = await send(guarded, app_code=shop.app_code)
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["request_id"])
    answer = await send(guarded, app_code=shop.app_code)
    assert refusal(answer) == (429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) > 1000
    for id_ in ids:
        assert (await ended(guarded, id_))["status"] == "completed"


async def test_jobs_keep_to_the_limits_of_their_model(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(
        guarded,
        postgres_url,
        rate_limits=["9/hour"],
        limits_by_model={"fake": {"rate_limits": ["3/hour"]}},
    )

    async def batch(count: int) -> httpx.Response:
        items = [{"request_type": "explain", "request": "What?"}] * count
        body = {"app_code": shop.app_code, "requests": items}
        return await guarded.http.post("/ai_request/batch", json=body)

    too_many = await batch(4)
    assert refusal(too_many) == (400, "INVALID_REQUEST")
    assert "These are 4 requests at once" in too_many.json()["message"]
    assert (await batch(2)).status_code == 200
    assert refusal(await batch(2)) == (429, "RATE_LIMITED")
    assert (await send(guarded, app_code=shop.app_code)).status_code == 200
    assert refusal(await send(guarded, app_code=shop.app_code)) == (429, "RATE_LIMITED")
    assert (await guarded.chat(shop.key)).status_code == 429


async def test_what_is_shown_with_an_id_must_be_its_owners(
    guarded: Guarded, postgres_url: str
) -> None:
    shop, other = await app(guarded, postgres_url), await app(guarded, postgres_url, "other")
    id_ = (await send(guarded, app_code=shop.app_code)).json()["request_id"]
    strangers = (
        {"x-app-code": other.app_code or ""},
        {"authorization": f"Bearer {other.key}"},
        {"x-app-code": "wrong"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {other.key}", "x-app-code": shop.app_code or ""},
    )
    for headers in strangers:
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry")):
            answer = await guarded.http.request(
                method, f"/get_request/{id_}{path}", headers=headers
            )
            assert refusal(answer) == (404, "REQUEST_NOT_FOUND")
    for headers in ({}, {"x-app-code": shop.app_code or ""}):
        assert (await guarded.http.get(f"/get_request/{id_}", headers=headers)).status_code == 200
    assert [line["request_id"] for line in (await history(guarded, shop)).json()["requests"]] == [
        id_
    ]
    assert (await history(guarded, other)).json()["requests"] == []
    assert refusal(await guarded.http.get("/requests")) == (401, "INVALID_APP_CODE")


async def test_users_of_one_app_do_not_see_each_others(tmp_path: Path, postgres_url: str) -> None:
    secret = "a-secret-that-nobody-would-ever-guess"
    variables = {"JWT_SECRET": secret, "JWT_APP": "shop"}
    async with guarded_gateway(tmp_path, postgres_url, variables) as guarded:
        shop = await app(guarded, postgres_url)

        def token(user: str) -> dict[str, str]:
            claims = {"sub": user, "exp": time.time() + 60}
            return {"authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}

        ann, bob = token("ann"), token("bob")
        sent = await send(guarded, headers=ann, idempotency_key="one")
        id_ = sent.json()["request_id"]
        assert refusal(await send(guarded, headers=bob, idempotency_key="one")) == (
            400,
            "INVALID_REQUEST",
        )
        for headers, status in ((ann, 200), (bob, 404), ({"x-app-code": shop.app_code}, 200)):
            answer = await guarded.http.get(f"/get_request/{id_}", headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == status
        for headers, count in ((ann, 1), (bob, 0), ({"x-app-code": shop.app_code}, 1)):
            answer = await guarded.http.get("/requests", headers=headers)  # type: ignore[arg-type]
            assert len(answer.json()["requests"]) == count
        forged = jwt.encode(
            {"sub": "ann", "exp": time.time() + 60},
            "another-secret-that-is-long-enough-too",
            "HS256",
        )
        headers = {"authorization": f"Bearer {forged}"}
        assert refusal(await guarded.http.get("/requests", headers=headers)) == (
            401,
            "INVALID_APP_CODE",
        )


async def test_an_operator_can_demand_the_owner(tmp_path: Path, postgres_url: str) -> None:
    jobs = {"polling_needs_owner": True}
    async with guarded_gateway(tmp_path, postgres_url, jobs=jobs) as guarded:
        shop = await app(guarded, postgres_url)
        id_ = (await send(guarded, app_code=shop.app_code)).json()["request_id"]
        answer = await guarded.http.get(f"/get_request/{id_}")
        assert refusal(answer) == (404, "REQUEST_NOT_FOUND")
        headers = {"x-app-code": shop.app_code or ""}
        assert (await guarded.http.get(f"/get_request/{id_}", headers=headers)).status_code == 200


async def test_a_full_queue_says_when_to_come_again(tmp_path: Path, postgres_url: str) -> None:
    jobs = {"queue_size": 2, "workers": 0}
    async with guarded_gateway(tmp_path, postgres_url, jobs=jobs) as guarded:
        shop = await app(guarded, postgres_url)
        answers = [await send(guarded, app_code=shop.app_code) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert refusal(answers[-1]) == (503, "QUEUE_FULL")
        assert int(answers[-1].headers["retry-after"]) >= 1
        await asyncio.sleep(1.2)
        health = (await guarded.http.get("/health")).json()
        assert health["queue_size"] == 2
        assert health["jobs"] == {"queued": 2, "processing": 0, "active_workers": 0}


async def test_one_app_alone_cannot_keep_others_out_of_the_queue(
    tmp_path: Path, postgres_url: str
) -> None:
    jobs = {"queue_size": 20, "workers": 0}
    async with guarded_gateway(tmp_path, postgres_url, jobs=jobs) as guarded:
        heavy = await app(guarded, postgres_url, "heavy")
        light = await app(guarded, postgres_url, "light")
        items = [{"request_type": "explain", "request": "What?"}] * 19
        body = {"app_code": heavy.app_code, "requests": items}
        batch = await guarded.http.post("/ai_request/batch", json=body)
        assert refusal(batch) == (503, "QUEUE_FULL")
        statuses = [(await send(guarded, app_code=heavy.app_code)).status_code for _ in range(20)]
        assert statuses == [200] * 18 + [503] * 2
        statuses = [(await send(guarded, app_code=light.app_code)).status_code for _ in range(3)]
        assert statuses == [200, 200, 503]


async def test_usage_of_jobs_stands_in_the_ledger(guarded: Guarded, postgres_url: str) -> None:
    shop = await app(guarded, postgres_url)
    id_ = (await send(guarded, app_code=shop.app_code)).json()["request_id"]
    tokens = (await ended(guarded, id_))["response"]["token_usage"]
    query = "select * from usage where app_id = $1 and model is not null"
    async with asyncio.timeout(8):
        while not (rows := await rows_of(postgres_url, query, shop.app.id)):
            await asyncio.sleep(0.1)
    (row,) = rows
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        tokens["prompt_tokens"],
        tokens["completion_tokens"],
    )


async def rows_of(url: str, query: str, *values: object) -> list[Any]:
    from api_server.stores.postgres import Postgres  # noqa: PLC0415

    postgres = Postgres(url)
    try:
        return await postgres.fetch(query, *values)
    finally:
        await postgres.aclose()


@pytest.fixture(scope="module")
def own_postgres() -> "Any":
    with running_postgres() as server:
        yield server


async def test_while_postgres_hangs_it_is_503_and_then_goes_on(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    with own_postgres.database() as url:
        async with guarded_gateway(tmp_path, url) as guarded:
            shop = await app(guarded, url)
            own_postgres.pause()
            try:
                for _ in range(4):
                    answer = await guarded.http.get("/get_request/job_x")
                    assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
                    assert answer.headers["retry-after"]
                answer = await send(guarded, app_code=shop.app_code)
                assert refusal(answer) == (503, "SERVICE_UNAVAILABLE")
            finally:
                own_postgres.resume()
            async with asyncio.timeout(20):
                while (answer := await send(guarded, app_code=shop.app_code)).status_code != 200:
                    await asyncio.sleep(0.2)
                while (await ended(guarded, answer.json()["request_id"]))["status"] != "completed":
                    await asyncio.sleep(0.1)
