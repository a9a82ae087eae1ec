"""Whatever an engine does wrong, the client gets one typed error in time, and nothing leaks."""

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.integration.conftest import Stack, raw_connection

MESSAGES: Any = [{"role": "user", "content": "hi"}]

BEFORE_THE_FIRST_EVENT = [
    ("hang_before_headers", 504, "engine_timeout"),
    ("hang_after_headers", 504, "engine_timeout"),
    ("garbage", 502, "engine_error"),
    ("garbage_first", 502, "engine_error"),
    ("not_http", 502, "engine_error"),
    ("reset", 502, "engine_error"),
    ("error_500", 502, "engine_error"),
    ("error_429", 503, "engine_unavailable"),
    ("loading_503", 503, "engine_unavailable"),
    ("too_long", 400, "context_length_exceeded"),
    ("bad_value", 400, "invalid_request"),
    ("no_images", 400, "invalid_request"),
    ("error_body_with_200", 502, "engine_error"),
    ("error_event_first", 502, "engine_error"),
]
IN_THE_STREAM = [
    ("half_event_then_stall", "engine_timeout"),
    ("reset_in_stream", "engine_truncated"),
    ("close_in_stream", "engine_truncated"),
    ("end_without_done", "engine_truncated"),
    ("error_event_in_stream", "engine_error"),
    ("garbage_in_stream", "engine_error"),
]


def ask(stack: Stack, fault: str, *, stream: bool, **fields: Any) -> Any:
    return stack.client.chat.completions.create(
        model="fake", messages=MESSAGES, stream=stream, extra_body={"fault": fault} | fields
    )


async def settled(stack: Stack) -> None:
    """No request is left in the gateway or the engine."""
    deadline = time.monotonic() + 0.25
    while stack.engine.running or stack.gateway.health.requests_in_flight:
        assert time.monotonic() < deadline, "something is still running"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "status", "code"), BEFORE_THE_FIRST_EVENT)
async def test_fault_before_the_first_event_is_an_http_error(
    stack: Stack, fault: str, status: int, code: str, stream: bool
) -> None:
    started = time.monotonic()
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(stack, fault, stream=stream)
    assert time.monotonic() - started < 2
    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert body["code"] == code
    assert set(body) == {"message", "type", "param", "code"}
    assert "secret" not in caught.value.response.text
    if status == 503:
        assert int(caught.value.response.headers["retry-after"]) >= 1
    await settled(stack)


@pytest.mark.parametrize(("fault", "code"), IN_THE_STREAM)
async def test_fault_in_a_stream_ends_it_with_a_typed_error(
    stack: Stack, fault: str, code: str
) -> None:
    received = 0
    with pytest.raises(openai.APIError) as caught:
        async for _ in await ask(stack, fault, stream=True):
            received += 1
    assert received >= 2, "what came before the fault arrived"
    assert caught.value.code == code
    assert "secret" not in str(caught.value.body)
    await settled(stack)


@pytest.mark.parametrize(("fault", "code"), IN_THE_STREAM)
async def test_fault_in_a_stream_is_an_http_error_for_a_plain_request(
    stack: Stack, fault: str, code: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(stack, fault, stream=False)
    assert caught.value.status_code in (502, 504)
    body: Any = caught.value.body
    assert body["code"] == code
    await settled(stack)


@pytest.mark.parametrize("fault", ["", "close_after_done", "pings_first"])
async def test_what_is_no_fault_is_answered(stack: Stack, fault: str) -> None:
    answer = await ask(stack, fault, stream=False)
    assert answer.choices[0].message.content == "xxxxx"
    assert answer.usage.completion_tokens == 5
    pieces = [c async for c in await ask(stack, fault, stream=True)]
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == "xxxxx"
    await settled(stack)


async def test_engine_that_is_not_there_is_a_503_that_says_when(stack: Stack) -> None:
    stack.engine.server.close()
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(stack, "", stream=stream)
        assert caught.value.status_code == 503
        assert caught.value.code == "engine_unavailable"
        assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_health_follows_the_engine(stack: Stack) -> None:
    stack.engine.is_healthy = False
    async with httpx.AsyncClient(base_url=stack.url) as http:
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/health")).json()["status"] == "down"
        stack.engine.is_healthy = True
        answer = (await http.get("/health/ready")).json()
        assert (answer["status"], answer["unready_models"]) == ("ready", [])


async def test_connections_to_the_engine_are_used_again(stack: Stack) -> None:
    for stream in (True, False, True, False):
        await drain(ask(stack, "", stream=stream))
    await settled(stack)
    assert stack.engine.connections == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_client_that_leaves_frees_the_engine(
    stack: Stack, stream: bool, phase: str
) -> None:
    fields = {"tokens": 1000, "pause": 0.01}
    fault = "hang_before_headers" if phase == "prefill" else ""
    request = asyncio.create_task(drain(ask(stack, fault, stream=stream, **fields)))
    while not stack.engine.running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert stack.engine.running == 1
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await settled(stack)
    assert stack.engine.finished == 0


async def drain(request: Any) -> None:
    answer = await request
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass


async def test_a_slow_reader_does_not_make_the_gateway_swallow_the_stream(stack: Stack) -> None:
    """Back-pressure: what the client does not read stays at the engine."""
    body = {"model": "fake", "messages": MESSAGES, "stream": True, "tokens": 4000, "size": 10_000}
    raw = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    async with raw_connection(stack.url, limit=1024) as (reader, writer):
        writer.write(head.encode() + raw)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        assert stack.engine.running == 1, "40 MB cannot have gone anywhere"
    await settled(stack)
    assert stack.engine.finished == 0
