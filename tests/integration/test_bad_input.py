"""Bad requests get a 4xx in the envelope, in bounded time and memory, and the server goes on."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from api_server import server
from tests.integration.conftest import Stack, raw_connection
from tests.integration.test_faults import settled
from tests.wire import assert_valid

CHAT = "/v1/chat/completions"


async def still_serves(stack: Stack) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = await stack.client.chat.completions.create(model="fake", messages=messages)
    assert answer.choices[0].message.content == "xxxxx"
    assert stack.gateway.health.requests_in_flight == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\x00\xff\xfe", 400),
        (b"null", 400),
        (b"[1]", 400),
        (b"[" * 1_000_000, 400),
        (b'{"a":' * 1_000_000, 400),
        (b'{"model":"fake","messages":[{"role":"user","content":"\xff"}]}', 400),
        (json.dumps({"model": "fake", "messages": [], "stop": ["x"] * 1_000_000}).encode(), 400),
        (b'{"model":"' + b"m" * 5_000_000 + b'","messages":[{"role":"user"}]}', 404),
        (b" " * 50_000_000, 413),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else str(value),
)
async def test_bad_body(stack: Stack, body: bytes, status: int) -> None:
    async with httpx.AsyncClient(base_url=stack.url, timeout=10) as http:
        response = await http.post(CHAT, content=body)
    assert response.status_code == status
    assert_valid("ErrorResponse", response.json())
    assert len(response.content) < 1000
    await still_serves(stack)


async def test_declared_but_never_sent_body_is_refused_at_once(stack: Stack) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n".encode()
        )
        async with asyncio.timeout(2):
            assert b" 413 " in await reader.readline()
    await still_serves(stack)


async def test_half_a_body_and_then_silence_is_408(stack: Stack) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(3):
            assert b" 408 " in await reader.readline()
    await still_serves(stack)


@pytest.mark.parametrize("raw", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" + b"\x00" * 99])
async def test_what_is_no_http_is_dropped(stack: Stack, raw: bytes) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        writer.write(raw)
        writer.write_eof()
        async with asyncio.timeout(3):
            answer = await reader.read()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    await still_serves(stack)


async def test_client_that_leaves_in_its_body_is_forgotten(stack: Stack) -> None:
    async with raw_connection(stack.url) as (_, writer):
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)
    await still_serves(stack)


@pytest.mark.parametrize("line", [b"x: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_headers_without_end_are_refused(stack: Stack, line: bytes) -> None:
    """Many of them, and one that never ends."""
    async with raw_connection(stack.url) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b'"alive"}')
        writer.write(b"GET /health/live HTTP/1.1\r\nx: ")
        sent = 0
        async with asyncio.timeout(10):
            while not reader.at_eof() and sent < 8_000_000:
                try:
                    writer.write(line * 100)
                    await writer.drain()
                except ConnectionError:
                    break
                sent += len(line) * 100
                await asyncio.sleep(0)
        assert sent < 8_000_000
    await still_serves(stack)


async def test_garbage_behind_a_running_request_does_not_get_into_its_answer(stack: Stack) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        body = {"model": "fake", "messages": [{"role": "user"}], "stream": True}
        raw = json.dumps(body | {"tokens": 10, "pause": 0.02}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        await reader.readuntil(b"data: ")
        writer.write(b"\x16\x03\x01" + b"\x00" * 99)
        async with asyncio.timeout(3):
            answer = await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            refusal = await reader.read()
        assert b" 400 " not in answer
        assert refusal.startswith(b"HTTP/1.1 400 ")
    await settled(stack)


async def test_a_connection_that_asks_for_nothing_is_dropped(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)
    async with (
        raw_connection(stack.url) as (silent, _),
        raw_connection(stack.url) as (half, half_writer),
        raw_connection(stack.url) as (asking, asking_writer),
    ):
        half_writer.write(b"GET /health/live HTTP/1.1\r\nhost: x")
        request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        asking_writer.write(request)
        await asking.readuntil(b'"alive"}')
        async with asyncio.timeout(5):
            await ended(silent)
            await ended(half)
            asking_writer.write(request)
            await asking.readuntil(b'"alive"}')
            asking_writer.write(request[:-4])
            await ended(asking)


async def ended(reader: asyncio.StreamReader) -> None:
    try:
        assert await reader.read() == b""
    except ConnectionError:
        return


async def test_an_upgrade_that_nobody_offers_is_left_unheard(stack: Stack) -> None:
    """Java's client asks for HTTP/2 in this way on every plain connection."""
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMA"}
    body = {"model": "fake", "messages": [{"role": "user", "content": "upgrade: this stays"}]}
    async with httpx.AsyncClient(base_url=stack.url) as http:
        response = await http.post(CHAT, json=body, headers=headers)
    assert response.status_code == 200
    assert stack.engine.bodies[0]["messages"] == body["messages"]


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 30_000,
        b"GET /" + b"x" * 200_000,
        b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"x: y\r\n" * 60_000,
        b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;" + b"x" * 400_000,
    ],
    ids=["head", "path", "trailers", "extension"],
)
async def test_what_has_no_end_is_cut_off(stack: Stack, endless: bytes) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        writer.write(endless)
        async with asyncio.timeout(5):
            try:
                assert b" 431 " in await reader.readline()
            except ConnectionError:  # it hung up before all was read, and TCP forgot the answer
                return


async def test_a_pipeline_does_not_hide_that_its_client_left(stack: Stack) -> None:
    body = {"model": "fake", "messages": [{"role": "user"}], "tokens": 500, "pause": 0.02}
    raw = json.dumps(body).encode()
    request = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    async with raw_connection(stack.url) as (_, writer):
        writer.write(request + raw)
        while not stack.engine.running:
            await asyncio.sleep(0.01)
        writer.write(request + raw)
        await asyncio.sleep(0.1)
    await settled(stack)
    assert stack.engine.finished == 0
