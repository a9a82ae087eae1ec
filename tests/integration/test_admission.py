"""The queue in front of an engine, engines that are away, and engines that get plain requests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api_server.inference.handlers.engine_client import EngineClient
from tests.fake_engine import running_engine
from tests.integration.conftest import TIMEOUTS, Stack, raw_connection, running_gateway
from tests.integration.test_faults import MESSAGES, ask, drain, settled
from tests.integration.test_life_of_a_request import established

QUICK_RETRIES = {"first_delay_seconds": 0.01, "max_delay_seconds": 0.05}


@asynccontextmanager
async def small_stack(folder: Path, **model: Any) -> AsyncIterator[Stack]:
    """One slot and one more request in the engine, two in the queue."""
    async with running_engine() as engine:
        entry = {"id": "fake", "replicas": [f"http://127.0.0.1:{engine.port}"], "slots": 1}
        sections: Any = {
            "models": [entry | model],
            "admission": {"surplus": 1, "queue_size": 2},
            "retries": QUICK_RETRIES,
        }
        async with (
            running_gateway(folder, engine, **sections) as (gateway, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(engine, gateway, url, client)


async def seen(stack: Stack, running: int, waiting: int) -> None:
    async with asyncio.timeout(2):
        while (stack.engine.running, stack.gateway.health.queue_size) != (running, waiting):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_never_has_more_than_its_slots_and_the_surplus(
    tmp_path: Path, stream: bool
) -> None:
    most = 0
    async with small_stack(tmp_path) as stack:
        asks = [
            asyncio.create_task(drain(ask(stack, "", stream=stream, pause=0.005))) for _ in range(4)
        ]
        while not all(task.done() for task in asks):
            most = max(most, stack.engine.running)
            await asyncio.sleep(0.001)
        await asyncio.gather(*asks)
        assert most == 2
        await settled(stack)


async def test_beyond_the_queue_is_a_429_that_says_when(tmp_path: Path) -> None:
    async with small_stack(tmp_path) as stack:
        busy = [
            asyncio.create_task(drain(ask(stack, "hang_before_headers", stream=True)))
            for _ in range(4)
        ]
        await seen(stack, 2, 2)
        started = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(stack, "", stream=False)
        assert time.monotonic() - started < 0.2
        assert caught.value.code == "overloaded"
        headers = caught.value.response.headers
        assert int(headers["retry-after"]) >= 1
        assert 0 < int(headers["retry-after-ms"]) <= int(headers["retry-after"]) * 1000
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await settled(stack)


async def test_who_waits_longer_than_the_deadline_gets_a_503(tmp_path: Path) -> None:
    async with small_stack(tmp_path, timeouts=TIMEOUTS | {"queue_seconds": 0.1}) as stack:
        busy = [
            asyncio.create_task(drain(ask(stack, "", stream=True, tokens=50, pause=0.02)))
            for _ in range(2)
        ]
        await seen(stack, 2, 0)
        started = time.monotonic()
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(stack, "", stream=True)
        assert 0.1 <= time.monotonic() - started < 0.4
        assert (caught.value.status_code, caught.value.code) == (503, "queue_timeout")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        timing = caught.value.response.headers["server-timing"]
        assert float(timing.split("queue;dur=")[1].split(",")[0]) >= 100
        await asyncio.gather(*busy)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_the_queue_leaves_nothing_behind(
    tmp_path: Path, stream: bool
) -> None:
    async with small_stack(tmp_path) as stack:
        busy = [
            asyncio.create_task(drain(ask(stack, "", stream=True, tokens=20, pause=0.02)))
            for _ in range(2)
        ]
        await seen(stack, 2, 0)
        waiting = asyncio.create_task(drain(ask(stack, "", stream=stream)))
        await seen(stack, 2, 1)
        waiting.cancel()
        await seen(stack, 2, 0)
        await asyncio.gather(*busy)
        await settled(stack)
        assert len(stack.engine.bodies) == 2, "the engine never heard of it"


async def test_an_engine_that_is_loading_is_waited_for(tmp_path: Path) -> None:
    async with small_stack(tmp_path) as stack:
        for stream in (True, False):
            stack.engine.bodies.clear()
            await drain(ask(stack, "away_for_a_while", stream=stream))
            assert len(stack.engine.bodies) == 3


async def test_an_engine_that_is_started_late_is_waited_for(tmp_path: Path) -> None:
    async with small_stack(tmp_path) as stack:
        stack.engine.server.close()
        request = asyncio.create_task(ask(stack, "", stream=False))
        await asyncio.sleep(0.1)
        assert not request.done()
        async with running_engine(stack.engine.port):
            assert (await request).usage.completion_tokens == 5


async def test_a_request_that_got_no_answer_is_sent_once_more(tmp_path: Path) -> None:
    async with small_stack(tmp_path) as stack:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(stack, "reset", stream=True)
        assert caught.value.status_code == 502
        assert len(stack.engine.bodies) == 2, "not for ever: it may be what brings engines down"
        stack.engine.bodies.clear()
        await drain(ask(stack, "drops_the_first", stream=True))
        assert len(stack.engine.bodies) == 2


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Stack]:
    """An engine whose row in the table says that it notices departed clients."""
    async with small_stack(tmp_path, engine="llm-serving-stack") as stack:
        yield stack


async def test_plain_requests_go_up_plain_and_come_back_as_they_are(plain: Stack) -> None:
    answer = await ask(plain, "", stream=False)
    assert answer.choices[0].message.content == "xxxxx"
    assert answer.usage.total_tokens == 8
    assert not plain.engine.bodies[0]["stream"]
    await drain(ask(plain, "", stream=True))
    assert plain.engine.bodies[1]["stream"] is True
    await settled(plain)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("hang_before_headers", 504, "engine_timeout"),
        ("garbage", 502, "engine_error"),
        ("not_http", 502, "engine_error"),
        ("reset", 502, "engine_error"),
        ("cut_plain", 502, "engine_error"),
        ("error_500", 502, "engine_error"),
        ("error_429", 503, "engine_unavailable"),
        ("error_body_with_200", 502, "engine_error"),
        ("too_long", 400, "context_length_exceeded"),
    ],
)
async def test_faults_of_plain_answers_are_typed(
    tmp_path: Path, fault: str, status: int, code: str
) -> None:
    timeouts = TIMEOUTS | {"total_seconds": 0.5}
    async with small_stack(tmp_path, engine="llm-serving-stack", timeouts=timeouts) as stack:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(stack, fault, stream=False)
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert "secret" not in caught.value.response.text
        await settled(stack)


async def test_a_plain_client_that_leaves_drops_the_engines_connection(plain: Stack) -> None:
    request = asyncio.create_task(ask(plain, "", stream=False, tokens=100, pause=0.1))
    await seen(plain, 1, 0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await settled(plain)
    assert plain.engine.finished == 0


async def test_timing_says_where_the_milliseconds_went(plain: Stack) -> None:
    async with httpx.AsyncClient(base_url=plain.url) as http:
        body = {"model": "fake", "messages": MESSAGES, "tokens": 1, "pause": 0.05}
        chat = await http.post("/v1/chat/completions", json=body)
        other = await http.get("/v1/models")
    parts = dict(part.split(";dur=") for part in chat.headers["server-timing"].split(", "))
    assert set(parts) == {"queue", "engine", "gateway"}
    assert float(parts["engine"]) >= 50
    assert float(parts["queue"]) < 50
    assert other.headers["server-timing"].startswith("gateway;dur=")


async def test_a_plain_answer_that_nobody_reads_holds_no_slot_and_is_cut_off(stack: Stack) -> None:
    raw = b'{"model":"fake","messages":[{"role":"user","content":"x"}],"tokens":2000,"size":10000}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)
    async with raw_connection(stack.url, limit=1024) as (reader, writer):
        writer.write(head + raw)
        await reader.readuntil(b"\r\n\r\n")
        await settled(stack)
        await asyncio.sleep(1)
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                received += len(data)
        assert received < 20_000_000, "idle_seconds is 0.5"


async def test_a_client_that_reads_nothing_is_cut_off_and_frees_the_engine(stack: Stack) -> None:
    raw = b'{"model":"fake","messages":[{"role":"user","content":"x"}],"stream":true,'
    raw += b'"tokens":4000,"size":10000}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(raw)
    async with raw_connection(stack.url, limit=1024) as (reader, writer):
        writer.write(head + raw)
        await reader.readuntil(b"\r\n\r\n")
        started = time.monotonic()
        async with asyncio.timeout(3):
            while stack.engine.running:
                await asyncio.sleep(0.01)
        assert time.monotonic() - started > 0.3, "idle_seconds is 0.5"
        ports = int(stack.url.rsplit(":", 1)[1]), writer.get_extra_info("sockname")[1]
        async with asyncio.timeout(2):
            while established(*ports):
                await asyncio.sleep(0.01)
    await settled(stack)


async def test_a_chat_whose_count_contradicts_the_refusal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may go, and the engine counts less than it refused: asking again would never end."""

    async def count_tokens(*_: object) -> int:
        return 100

    monkeypatch.setattr(EngineClient, "count_tokens", count_tokens)
    async with small_stack(tmp_path, context_overflow="drop_oldest") as stack:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(stack, "too_long", stream=False)
        assert caught.value.code == "context_length_exceeded"
        assert len(stack.engine.bodies) == 1


async def test_a_text_completion_that_does_not_fit_is_never_shortened(tmp_path: Path) -> None:
    async with small_stack(tmp_path, context_overflow="drop_oldest") as stack:
        with pytest.raises(openai.BadRequestError) as caught:
            await stack.client.completions.create(
                model="fake", prompt="hi", extra_body={"fault": "too_long"}
            )
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
        assert "5000" in caught.value.message
        assert "2048" in caught.value.message
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(stack, "too_long", stream=False)
        assert caught.value.param == "messages"
