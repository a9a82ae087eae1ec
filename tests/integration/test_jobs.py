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
