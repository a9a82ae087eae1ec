"""What no fault table shows: reuse, bounds, what goes up, and what stays out of the log."""

import asyncio
import gc
import json
import logging
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.handlers.http1 import Connection
from tests.fake_engine import running_engine
from tests.integration.conftest import Stack, raw_connection, running_gateway
from tests.integration.test_faults import MESSAGES, ask, settled

SECRET = "the-prompt-is-nobodys-business"


async def test_dead_kept_connection_is_replaced_without_the_client_noticing(stack: Stack) -> None:
    assert (await ask(stack, "slams_the_door", stream=False)).usage.completion_tokens == 5
    for _ in range(20):
        assert (await ask(stack, "slams_the_door", stream=False)).usage.completion_tokens == 5


async def test_connection_that_says_close_is_not_used_again(stack: Stack) -> None:
    for _ in range(3):
        await ask(stack, "says_close", stream=False)
    assert stack.engine.connections == 3


async def test_large_answers_are_folded_whole(stack: Stack) -> None:
    """More than the buffer holds: reading pauses and goes on."""
    answer = await ask(stack, "", stream=False, tokens=300, size=10_000)
    assert len(answer.choices[0].message.content) == 3_000_000


@pytest.mark.parametrize("stream", [False, True])
async def test_done_inside_a_text_does_not_end_it(stack: Stack, stream: bool) -> None:
    answer = await ask(stack, "done_in_content", stream=stream)
    if stream:
        text = "".join([c.choices[0].delta.content or "" async for c in answer])
    else:
        text = answer.choices[0].message.content
    assert text == "data: [DONE]" * 5


async def test_retry_after_of_the_engine_is_passed_on(stack: Stack) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(stack, "error_429", stream=False)
    assert caught.value.response.headers["retry-after"] == "7"


async def test_key_and_request_id_go_up_and_client_headers_do_not(tmp_path: Path) -> None:
    async with running_engine() as engine:
        model = Model(
            id="m",
            engine=LLAMA_SERVER,
            replicas=(f"http://127.0.0.1:{engine.port}",),
            api_key="engine-key",
        )
        handler = EngineClient(model)
        stream = await handler.open_stream(
            "/v1/chat/completions", b'{"model":"m","stream":true}', "id-7"
        )
        while await stream.next_block():
            pass
        stream.close()
        await handler.aclose()
        assert "authorization: Bearer engine-key" in engine.heads[0]
        assert "x-request-id: id-7" in engine.heads[0]
        async with running_gateway(tmp_path, engine) as (_, url), httpx.AsyncClient() as http:
            headers = {"authorization": "Bearer of-the-client", "cookie": "c", "x-request-id": "i"}
            body = {"model": "fake", "messages": MESSAGES}
            await http.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        assert "of-the-client" not in engine.heads[1]
        assert "cookie" not in engine.heads[1]
        assert "x-request-id: i\r\n" in engine.heads[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_total_time_is_bounded(tmp_path: Path, stream: bool) -> None:
    timeouts = {"total_seconds": 0.5, "idle_seconds": 5}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, timeouts=timeouts) as (gateway, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
    ):
        stack = Stack(engine, gateway, url, client)
        started = time.monotonic()
        with pytest.raises(openai.APIError) as caught:
            answer = await ask(stack, "", stream=stream, tokens=1000, pause=0.05)
            async for _ in answer:
                pass
        assert caught.value.code == "engine_timeout"
        assert time.monotonic() - started < 2
        await settled(stack)


async def test_client_that_stops_reading_is_cut_off(tmp_path: Path) -> None:
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, timeouts={"total_seconds": 0.5}) as (gateway, url),
        raw_connection(url, limit=1024) as (reader, writer),
    ):
        body = {"model": "fake", "messages": MESSAGES, "stream": True, "tokens": 9000}
        raw = json.dumps(body | {"size": 10_000}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        writer.write(head.encode() + raw)
        await reader.readuntil(b"\r\n\r\n")
        while gateway.health.requests_in_flight:
            await asyncio.sleep(0.05)
        assert engine.running == 0
        mine = writer.get_extra_info("sockname")[1]
        for _ in range(100):
            if not established(int(url.rsplit(":", 1)[1]), mine):
                return
            await asyncio.sleep(0.02)
        pytest.fail("the gateway still holds the connection")


def established(local_port: int, remote_port: int) -> bool:
    """Whether the kernel still has that connection open on the side of `local_port`."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        ports = int(local.split(":")[1], 16), int(remote.split(":")[1], 16)
        if ports == (local_port, remote_port):
            return state == "01"
    return False


async def test_cancel_in_the_very_moment_of_the_headers_frees_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received = Connection.data_received
    async with running_engine() as engine:
        handler = EngineClient(
            Model(
                id="m",
                engine=LLAMA_SERVER,
                replicas=(f"http://127.0.0.1:{engine.port}",),
                timeouts=Timeouts(total_seconds=5),
            )
        )

        async def ask_engine() -> None:
            body = b'{"model":"m","stream":true,"tokens":1000,"pause":0.01}'
            stream = await handler.open_stream("/v1/chat/completions", body, "i")
            try:
                while await stream.next_block():
                    pass
            finally:
                stream.close()

        task = asyncio.create_task(ask_engine())

        def receive_and_cancel(self: Connection, data: bytes) -> None:
            received(self, data)
            task.cancel()

        monkeypatch.setattr(Connection, "data_received", receive_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        deadline = time.monotonic() + 1
        while engine.running:
            assert time.monotonic() < deadline, "the engine still works for nobody"
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_log_line_has_usage_and_no_prompt(
    stack: Stack, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages: Any = [{"role": "user", "content": SECRET}]
    answer: Any = await stack.client.chat.completions.create(
        model="fake", messages=messages, stream=stream
    )
    if stream:
        async for _ in answer:
            pass
    await settled(stack)
    (line,) = [r for r in caplog.records if r.name == "api_server.request"]
    fields = vars(line)
    assert fields["outcome"] == "ok"
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (3, 5)
    assert fields["finish_reason"] == "stop"
    ours = [r for r in caplog.records if r.name.startswith("api_server")]
    assert SECRET not in str([vars(r) for r in ours])


async def test_client_that_leaves_is_logged_as_such(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request = asyncio.create_task(ask(stack, "hang_before_headers", stream=False))
    while not stack.engine.running:
        await asyncio.sleep(0.01)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await settled(stack)
    await asyncio.sleep(0.05)
    (line,) = [r for r in caplog.records if r.name == "api_server.request"]
    assert vars(line)["outcome"] == "client_left"


async def test_engines_reason_is_logged_under_the_requests_id(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    async with httpx.AsyncClient(base_url=stack.url) as http:
        body = {"model": "fake", "messages": MESSAGES, "fault": "bad_value"}
        headers = {"x-request-id": "find-me"}
        response = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 400
    (line,) = [r for r in caplog.records if "engine_reason" in vars(r)]
    assert vars(line)["request_id"] == "find-me"
    assert "secret grammar" in vars(line)["engine_reason"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_a_defect_of_ours_is_a_500_that_tells_nothing(
    stack: Stack, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("secret inner state")

    monkeypatch.setattr("api_server.services.completions.parse_chat", explode)
    monkeypatch.setattr("api_server.routes.models._shape", explode)
    async with httpx.AsyncClient(base_url=stack.url) as http:
        method = "GET" if path == "/v1/models" else "POST"
        response = await http.request(method, path, json={}, headers={"x-request-id": "boom"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "boom" in response.json()["error"]["message"]
    assert "secret inner state" in caplog.text


async def test_body_in_chunks_is_bounded_too(stack: Stack) -> None:
    async with raw_connection(stack.url) as (reader, writer):
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(12):
            writer.write(piece)
        async with asyncio.timeout(5):
            assert b" 413 " in await reader.readline()


def chat(**fields: Any) -> bytes:
    raw = json.dumps({"model": "fake", "messages": MESSAGES} | fields).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


async def test_a_pipelined_request_behind_a_failed_stream_is_cancelled_too(stack: Stack) -> None:
    """It begins before the first one has tidied up, and must not lose its word of a lost client."""
    async with raw_connection(stack.url) as (_, writer):
        writer.write(chat(stream=True, fault="error_event_in_stream", pause=0.02))
        await asyncio.sleep(0.02)
        writer.write(chat(tokens=1000, pause=0.01))
        async with asyncio.timeout(2):
            while len(stack.engine.bodies) < 2:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert stack.engine.running == 1
    await settled(stack)


async def test_nothing_is_kept_of_a_connection_that_is_gone(stack: Stack) -> None:
    protocols = "api_server.server", "_Protocol"

    def kept() -> int:
        gc.collect()
        kinds = (type(thing) for thing in gc.get_objects())
        return sum((kind.__module__, kind.__name__) == protocols for kind in kinds)

    before = kept()
    for _ in range(20):
        async with raw_connection(stack.url) as (reader, writer):
            writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert b" 200 " in await reader.read()
    await asyncio.sleep(0.05)
    assert kept() <= before + 2


async def test_a_slow_upload_is_the_clients_time_and_not_ours(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with raw_connection(stack.url) as (reader, writer):
        request = chat()
        writer.write(request[:-10])
        await asyncio.sleep(0.3)
        writer.write(request[-10:])
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert float(head.split("gateway;dur=")[1].split("\r\n")[0]) < 200
    async with asyncio.timeout(1):
        while not (lines := [r for r in caplog.records if r.name == "api_server.request"]):
            await asyncio.sleep(0.01)
    fields = vars(lines[0])
    assert fields["upload_ms"] >= 250
    assert fields["own_ms"] < 200


async def test_a_client_that_has_sent_its_next_request_already_is_missed_too(stack: Stack) -> None:
    """Neither the running one goes on, nor those that waited behind it."""
    long = chat(tokens=1000, pause=0.01)
    async with raw_connection(stack.url) as (_, writer):
        writer.write(long * 3)
        async with asyncio.timeout(2):
            while not stack.engine.running:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    await settled(stack)
    assert stack.engine.finished == 0
