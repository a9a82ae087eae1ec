"""A gateway with a ledger, and what `/admin/usage` and `python -m api_server usage` make of it."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api_server.schemas.apps import Policy
from api_server.services.access.managing import ManagedApps
from api_server.stores.apps import AppStore
from api_server.stores.postgres import Postgres
from tests.fake_engine import FakeEngine, running_engine
from tests.integration.conftest import running_gateway
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.samples import samples
from tests.wire import assert_valid

KEY = "the-operator-alone-knows"
MODELS = ("fake", "other")


@dataclass
class WithLedger:
    """A gateway that keeps a ledger, as an operator's client sees it."""

    http: httpx.AsyncClient
    engine: FakeEngine
    variables: Mapping[str, str]
    postgres_url: str

    async def ask(self, **fields: Any) -> httpx.Response:
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]} | fields
        return await self.http.post("/v1/chat/completions", json=body)

    async def rows(self, count: int) -> list[Any]:
        """All rows, once there are so many."""
        connection = await asyncpg.connect(self.postgres_url)
        try:
            async with asyncio.timeout(10):
                while True:
                    rows = list(await connection.fetch("select * from usage order by at"))
                    if len(rows) >= count:
                        return rows
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api_server", "usage", *words],
            cwd=REPOSITORY,
            env=os.environ | NEUTRAL | dict(self.variables),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
async def ledger(postgres_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[WithLedger]:
    variables = {
        "POSTGRES_URL": postgres_url,
        "REDIS_URL": redis_url,
        "ADMIN_API_KEY": KEY,
        "DATA_DIR": str(tmp_path / "data"),
        "ENVIRONMENT": "development",
        "AUTH": "off",
    }
    async with running_engine() as engine:
        entries = [{"id": name, "replicas": [f"http://127.0.0.1:{engine.port}"]} for name in MODELS]
        headers = {"authorization": f"Bearer {KEY}"}
        async with (
            running_gateway(tmp_path, engine, variables=variables, models=entries) as (_, url),
            httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as http,
        ):
            variables["STACK_CONFIG"] = str(tmp_path / "stack.yaml")
            yield WithLedger(http, engine, variables, postgres_url)


async def test_what_was_used_is_told_by_app_model_and_day(ledger: WithLedger) -> None:
    for fields in ({}, {"stream": True, "tokens": 9}, {"model": "other", "tokens": 2}):
        assert (await ledger.ask(**fields)).status_code == 200
    assert (await ledger.ask(fault="bad_value")).status_code == 400
    assert (await ledger.ask(model="nobody")).status_code == 404
    await ledger.rows(5)
    answer = await ledger.http.get("/admin/usage", params={"by": "day,app,model"})
    assert answer.status_code == 200
    report = answer.json()
    same = {
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "app": "anyone",
        "cache_hits": 0,
        "cached_tokens": 0,
        "estimated_tokens": 0,
    }
    expected: list[dict[str, object]] = [
        {"model": "fake", "requests": 3, "failed": 1, "prompt_tokens": 6, "completion_tokens": 14},
        {"model": "other", "requests": 1, "failed": 0, "prompt_tokens": 3, "completion_tokens": 2},
        {"model": None, "requests": 1, "failed": 1, "prompt_tokens": 0, "completion_tokens": 0},
    ]
    assert report["data"] == [same | each for each in expected]
    assert (report["waiting_rows"], report["has_more"]) == (0, False)

    params = {"by": "", "app": "anyone", "model": "fake"}
    (total,) = (await ledger.http.get("/admin/usage", params=params)).json()["data"]
    assert "model" not in total or total["model"] == "fake"
    assert total["completion_tokens"] == 14
    nothing = {"app": "x' or '1'='1"}
    assert (await ledger.http.get("/admin/usage", params=nothing)).json()["data"] == []
    wrong = await ledger.http.get("/admin/usage", params={"by": "1; drop table usage"})
    assert wrong.status_code == 400
    assert_valid("ErrorResponse", wrong.json())


async def test_the_command_tells_the_same(ledger: WithLedger) -> None:
    for model in MODELS:
        await ledger.ask(model=model)
    await ledger.rows(2)

    async def command(*words: str) -> str:
        done = await asyncio.to_thread(ledger.command, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    report = json.loads(await command("--by", "model", "--json"))
    assert [line["model"] for line in report["data"]] == ["fake", "other"]
    lines = list(csv.DictReader(io.StringIO(await command("--by", "app,model", "--csv"))))
    assert [(line["app"], line["model"]) for line in lines] == [
        ("anyone", "fake"),
        ("anyone", "other"),
    ]
    assert {line["completion_tokens"] for line in lines} == {"5"}
    table = (await command("--since", "2026-01-01")).splitlines()
    assert table[0].split()[:3] == ["app", "model", "requests"]
    assert table[1].split() == ["anyone", "fake", "1", "0", "0", "3", "0", "5", "0"]
    assert (await command("--app", "nobody")) == "No requests.\n"
    done = await asyncio.to_thread(ledger.command, "--by", "colour")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --by: 'colour' is none of day, app, model")


async def test_a_client_that_leaves_is_charged_by_estimate(ledger: WithLedger) -> None:
    """What came until then is counted by events; metrics keep to what engines said."""
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "how are you today"}],
        "stream": True,
        "tokens": 50,
        "pause": 0.02,
    }
    async with ledger.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            if text.count('"content"') >= 3:
                break
    (row,) = await ledger.rows(1)
    assert (row["outcome"], row["status"], row["is_estimate"]) == ("client_left", 200, True)
    assert 3 <= row["completion_tokens"] < 50
    assert 3 <= row["prompt_tokens"] < 30
    found = samples((await ledger.http.get("/metrics")).content)
    used = [n for key, n in found.items() if key[0] == "gen_ai_client_token_usage_total"]
    assert sum(used) == 0


async def test_a_plain_request_whose_client_leaves_is_charged_too(ledger: WithLedger) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await ledger.ask(tokens=50, pause=0.05)
    (row,) = await ledger.rows(1)
    assert (row["outcome"], row["status"], row["is_estimate"]) == ("client_left", 0, True)
    assert 1 <= row["completion_tokens"] < 50


async def test_the_row_is_on_disk_before_the_last_byte_leaves(ledger: WithLedger) -> None:
    spool = Path(ledger.variables["DATA_DIR"]) / "spool"

    def has(request_id: str) -> bool:
        line = f'"request_id":"{request_id}","status":200,"outcome":"ok"'.encode()
        return any(line in path.read_bytes() for path in spool.glob("*/*.live"))

    for number in range(20):  # between two shipments, most of them
        request_id = f"mine-{number}"
        headers = {"x-request-id": request_id}
        body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        await ledger.http.post("/v1/chat/completions", json=body, headers=headers)
        if has(request_id):
            break
    else:
        pytest.fail("no row was in the spool when its answer was complete")
    rows = await ledger.rows(number + 1)
    assert len({row["id"] for row in rows}) == number + 1


async def test_content_is_stored_for_apps_that_want_it_and_for_no_others(
    postgres_url: str, tmp_path: Path
) -> None:
    keys = {}
    postgres = Postgres(postgres_url)
    apps = ManagedApps(AppStore(postgres), by="a test")
    for name in ("kept", "forgotten"):
        issued = await apps.create(name, Policy(store_content=name == "kept"))
        keys[name] = issued.key
    await postgres.aclose()
    variables = {"POSTGRES_URL": postgres_url, "DATA_DIR": str(tmp_path), "AUTH": "on"}
    connection = await asyncpg.connect(postgres_url)
    message = {"role": "user", "content": "my secret \0 question"}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, variables=variables) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        for key in keys.values():
            for stream in (False, True):
                answer = await http.post(
                    "/v1/chat/completions",
                    json={"model": "fake", "messages": [message], "stream": stream},
                    headers={"authorization": f"Bearer {key}"},
                )
                assert answer.status_code == 200, answer.text
        async with asyncio.timeout(10):
            while await connection.fetchval("select count(*) from usage") < 4:
                await asyncio.sleep(0.05)
    query = "select app, is_stream, request, answer, is_cut from usage join usage_content"
    rows = await connection.fetch(f"{query} using (at, id) order by at")
    everything = await connection.fetchval("select count(*) from usage_content")
    await connection.close()
    assert [(row["app"], row["is_stream"]) for row in rows] == [("kept", False), ("kept", True)]
    assert everything == 2
    for row in rows:
        assert json.loads(row["request"])["messages"] == [message]
        assert not row["is_cut"]
    assert json.loads(rows[0]["answer"])["choices"][0]["message"]["content"] == "xxxxx"
    assert rows[1]["answer"].endswith("data: [DONE]\n\n")


async def test_what_the_cache_answers_is_told_apart(ledger: WithLedger) -> None:
    body = {"model": "fake", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
    for found in ("miss", "hit", "hit"):
        answer = await ledger.http.post(
            "/v1/chat/completions", json=body, headers={"x-cache": "use"}
        )
        assert answer.headers["x-cache"] == found
    usage = answer.json()["usage"]
    await ledger.rows(3)
    (line,) = (await ledger.http.get("/admin/usage", params={"by": "app"})).json()["data"]
    assert (line["requests"], line["cache_hits"]) == (3, 2)
    assert line["prompt_tokens"] == usage["prompt_tokens"], "an engine computed it once"
    assert line["completion_tokens"] == usage["completion_tokens"]
