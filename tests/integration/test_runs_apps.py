"""Runs of several apps: none sees another's, each has its limits, and each row of the ledger."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from api_server.stores.postgres import Postgres
from tests.access import Guarded, guarded_gateway, make_app

ENDED = ("completed", "failed", "expired", "cancelled")


async def ask(guarded: Guarded, key: str, method: str, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {key}"}
    answer: httpx.Response = await guarded.http.request(method, path, json=body, headers=headers)
    return answer.status_code, answer.json() if "json" in answer.headers["content-type"] else None


async def begin(guarded: Guarded, key: str) -> tuple[str, str]:
    """A thread of the app, and an assistant."""
    _, assistant = await ask(guarded, key, "POST", "/v1/assistants", {"model": "fake"})
    message = {"role": "user", "content": "hi"}
    _, thread = await ask(guarded, key, "POST", "/v1/threads", {"messages": [message]})
    return thread["id"], assistant["id"]


async def test_apps_see_their_own_runs_only(tmp_path: Path, postgres_url: str) -> None:
    mine, other = await make_app(postgres_url, "one"), await make_app(postgres_url, "two")
    async with guarded_gateway(tmp_path, postgres_url) as guarded:
        assert mine.key is not None
        assert other.key is not None
        thread, assistant = await begin(guarded, mine.key)
        runs = f"/v1/threads/{thread}/runs"
        body = {"assistant_id": assistant}
        status, run = await ask(guarded, mine.key, "POST", runs, body)
        assert status == 200
        path = f"{runs}/{run['id']}"
        while (await ask(guarded, mine.key, "GET", path))[1]["status"] not in ENDED:
            await asyncio.sleep(0.02)
        _, steps = await ask(guarded, mine.key, "GET", f"{path}/steps")
        outputs: dict[str, Any] = {"tool_outputs": []}
        strange: list[tuple[str, str, Any]] = [
            *(("POST", runs, body), ("GET", runs, None), ("GET", path, None)),
            *(("POST", path, {"metadata": {}}), ("POST", f"{path}/cancel", None)),
            *(("POST", f"{path}/submit_tool_outputs", outputs), ("GET", f"{path}/events", None)),
            *(("POST", f"{path}/resume", None), ("GET", f"{path}/steps", None)),
            ("GET", f"{path}/steps/{steps['data'][0]['id']}", None),
            ("POST", "/v1/threads/runs", body | {"thread": {}}),
        ]
        for method, where, sent in strange:
            status, answer = await ask(guarded, other.key, method, where, sent)
            assert (status, answer["error"]["code"]) == (404, "not_found"), where


async def test_a_leg_counts_as_a_request_and_is_in_the_ledger(
    tmp_path: Path, postgres_url: str
) -> None:
    app = await make_app(postgres_url, "one", rate_limits=["2/hour"])
    postgres = Postgres(postgres_url)
    async with guarded_gateway(tmp_path, postgres_url) as guarded:
        assert app.key
        thread, assistant = await begin(guarded, app.key)
        runs = f"/v1/threads/{thread}/runs"
        body = {"assistant_id": assistant}
        for _ in range(2):
            status, run = await ask(guarded, app.key, "POST", runs, body)
            assert status == 200, run
            path = f"{runs}/{run['id']}"
            while (await ask(guarded, app.key, "GET", path))[1]["status"] not in ENDED:
                await asyncio.sleep(0.02)
        status, answer = await ask(guarded, app.key, "POST", runs, body)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    rows = await postgres.fetch("select * from usage where route = 'run'")
    totals = await postgres.fetch("select completion_tokens from runs")
    await postgres.aclose()
    assert [(row["app"], row["outcome"], row["is_stream"]) for row in rows] == [
        ("one", "ok", True)
    ] * 2
    assert [row["completion_tokens"] for row in rows] == [
        row["completion_tokens"] for row in totals
    ]
