"""An engine that is found with other slots or another context than planned gets no requests."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.local.process import free_port
from tests.fake_engine import FakeEngine, running_engine
from tests.fake_engine.answers import CHAT, CONTEXT_TOKENS
from tests.integration.conftest import running_gateway

ADMIN = "the-operator-alone-knows"
INTERVAL_SECONDS = 0.2


@dataclass
class Served:
    http: httpx.AsyncClient

    async def chat(self, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "hi"}]
        asked = {"model": "fake", "messages": messages} | body
        return await self.http.post("/v1/chat/completions", json=asked)

    async def is_ready(self) -> bool:
        return (await self.http.get("/health/ready")).status_code == 200

    async def problems(self) -> list[str]:
        return list((await self.http.get("/health")).json()["problems"])

    async def replicas(self) -> list[dict[str, Any]]:
        answer = await self.http.get("/admin/models", headers={"authorization": f"Bearer {ADMIN}"})
        return list(answer.raise_for_status().json()["data"][0]["replicas"])


@asynccontextmanager
async def served(
    folder: Path,
    engines: Sequence[FakeEngine],
    slots: int = 4,
    context_tokens: int = CONTEXT_TOKENS,
    interval_seconds: float = INTERVAL_SECONDS,
) -> AsyncIterator[Served]:
    told = {
        "ENGINE_URLS": ",".join(f"http://127.0.0.1:{engine.port}" for engine in engines),
        "ENGINE_SLOTS": str(slots),
        "ENGINE_CONTEXT_TOKENS": str(context_tokens),
        "MODEL_NAME": "fake",
        "ADMIN_API_KEY": ADMIN,
    }
    health = {"interval_seconds": interval_seconds}
    async with (
        running_gateway(folder, engines[0], variables=told, health=health) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        yield Served(http)


async def until_ready(gateway: Served, *, is_ready: bool) -> None:
    async with asyncio.timeout(5):
        while await gateway.is_ready() is not is_ready:
            await asyncio.sleep(0.02)


async def test_an_engine_as_planned_is_asked_once(tmp_path: Path) -> None:
    async with (
        running_engine(slots=4) as engine,
        served(tmp_path, [engine], interval_seconds=60) as gateway,
    ):
        answers = await asyncio.gather(*(gateway.chat() for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert engine.requests["/props"] == 1
        assert await gateway.is_ready()
        assert (await gateway.chat()).status_code == 200
        assert engine.requests["/props"] == 1
        assert await gateway.problems() == []


@pytest.mark.parametrize(("slots", "context"), [(32, 2048), (4, 4096), (4, 1024), (2, 2048)])
async def test_one_that_differs_gets_nothing_and_everybody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, slots: int, context: int
) -> None:
    caplog.set_level(logging.WARNING)
    async with (
        running_engine(slots=4) as engine,
        served(tmp_path, [engine], slots, context) as gateway,
    ):
        for stream in (False, True):
            answer = await gateway.chat(stream=stream)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "engine_unavailable"
            assert int(answer.headers["retry-after"]) > 0
        assert engine.requests[CHAT] == 0
        assert not await gateway.is_ready()
        (problem,) = await gateway.problems()
        name = f"127.0.0.1:{engine.port}"
        planned = f"not the {slots} of {context} tokens"
        assert problem.startswith(f"{name} runs 4 slots of 2048 tokens, {planned}")
        (replica,) = await gateway.replicas()
        assert replica["problem"] == problem
        assert (replica["state"], replica["is_usable"]) == ("refused", False)
    said = [each for each in caplog.records if "is not as planned" in each.message]
    assert len(said) == 1


async def test_one_that_was_corrected_is_used_again(tmp_path: Path) -> None:
    async with (
        running_engine(slots=2) as engine,
        served(tmp_path, [engine]) as gateway,
    ):
        assert not await gateway.is_ready()
        engine.slots = 4
        assert (await gateway.chat()).status_code == 200, "it waited for that, as for one away"
        assert await gateway.is_ready()
        assert await gateway.problems() == []


async def test_one_that_was_away_is_asked_again(tmp_path: Path) -> None:
    async with (
        running_engine(slots=4) as engine,
        served(tmp_path, [engine], interval_seconds=60) as gateway,
    ):
        assert (await gateway.chat()).status_code == 200
        engine.obey(fault="refuse", seconds=1.5)
        assert (await gateway.chat()).status_code == 503
        engine.slots = 2
        await asyncio.sleep(1.5)
        asked = engine.requests[CHAT]
        assert (await gateway.chat()).status_code == 503
        assert engine.requests[CHAT] == asked
        assert len(await gateway.problems()) == 1


async def test_one_that_was_exchanged_unseen_is_noticed(tmp_path: Path) -> None:
    async with running_engine(slots=4) as engine, served(tmp_path, [engine]) as gateway:
        assert (await gateway.chat()).status_code == 200
        engine.slots = 2
        await until_ready(gateway, is_ready=False)
        assert (await gateway.chat()).status_code == 503


async def test_the_others_serve(tmp_path: Path) -> None:
    async with (
        running_engine(slots=4) as right,
        running_engine(slots=8) as wrong,
        served(tmp_path, [right, wrong]) as gateway,
    ):
        for seed in range(10):
            answers = await asyncio.gather(*(gateway.chat(seed=seed) for _ in range(3)))
            assert {answer.status_code for answer in answers} == {200}
        assert (right.requests[CHAT], wrong.requests[CHAT]) == (30, 0)
        assert await gateway.is_ready()
        assert [each["state"] for each in await gateway.replicas()] == ["up", "refused"]
        assert len(await gateway.problems()) == 1


async def test_one_that_is_away_or_loading_is_no_problem_of_this_kind(tmp_path: Path) -> None:
    async with running_engine(slots=4) as engine, served(tmp_path, [engine]) as gateway:
        engine.is_healthy = False
        engine.server.close()
        answer = await gateway.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert not await gateway.is_ready()
        assert await gateway.problems() == []


async def test_an_engine_that_does_not_tell_is_of_another_kind(tmp_path: Path) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"status": "ok"}).encode()
        status = b"200 OK" if head.startswith(b"GET /health ") else b"404 Not Found"
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + length + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", free_port()) as server:
        engine = FakeEngine()
        engine.port = server.sockets[0].getsockname()[1]
        async with served(tmp_path, [engine]) as gateway:
            assert (await gateway.chat()).status_code == 503
            (problem,) = await gateway.problems()
            assert "does not tell its slots" in problem
