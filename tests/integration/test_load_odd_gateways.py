"""`python -m load_tests` in front of gateways that answer what no gateway should."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.load_runs import PATIENT, command, load

HEALTH = {"status": "ok", "version": "1", "jobs": None}
CHAT = {
    "choices": [{"message": {"content": "two words"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 130, "completion_tokens": 2},
}
GOOD: Mapping[str, Any] = {
    "/health": HEALTH,
    "/v1/models": {"data": [{"id": "m"}]},
    "/v1/chat/completions": CHAT,
}


@asynccontextmanager
async def gateway(
    answers: Mapping[str, Any], streamed: bytes = b"", status: str = "200 OK"
) -> AsyncIterator[str]:
    """Its URL. What is streamed is answered with `streamed`, whatever that is, and `status`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        (length,) = (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.startswith(b"content-length")
        )
        asked = await reader.readexactly(length)
        is_stream = b'"stream": true' in asked
        body = streamed if is_stream else json.dumps(answers[path]).encode()
        first = status if is_stream else "200 OK"
        writer.write(f"HTTP/1.1 {first}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "odd",
    [
        {"/v1/models": {"data": None}},
        {"/v1/models": {"data": "abc"}},
        {"/v1/models": {"data": [{}]}},
        {"/v1/models": {"data": [{"id": "\ud800"}]}},
        {"/v1/chat/completions": {}},
        {"/v1/chat/completions": {"choices": [], "usage": {}}},
        {"/v1/chat/completions": CHAT | {"usage": {"prompt_tokens": float("inf")}}},
    ],
)
async def test_what_is_no_gateway_is_said_in_a_sentence(odd: Mapping[str, Any]) -> None:
    async with gateway({**GOOD, **odd}) as url:
        code, output = await command("-m", "load_tests", "--host", url, "--requests", "2")
    assert code == 4
    assert output.startswith("error: that is no gateway of this stack")
    assert "Traceback" not in output


async def test_an_answer_of_any_form_is_counted(tmp_path: Path) -> None:
    for number, streamed in enumerate(
        (
            b"data: " + b"[" * 200_000 + b"\n\n",
            b'data: {"choices": [], "usage": {"prompt_tokens": Infinity}}\n\n',
        )
    ):
        async with gateway(GOOD, streamed) as url:
            run = await load(
                url, tmp_path / str(number), "--requests", "6", "--concurrency", "2", *PATIENT
            )
        assert run.result.total.errors == {"bad event": 6}, run.output
        assert run.code == 1


async def test_a_run_ends_when_it_should_however_long_users_are_told_to_wait(
    tmp_path: Path,
) -> None:
    async with gateway(GOOD, status="503 Unavailable\r\nretry-after: 40") as url:
        began = time.monotonic()
        run = await load(url, tmp_path, "--duration", "1", "--concurrency", "2", *PATIENT)
    assert run.result.total.refused == 2, run.output
    assert time.monotonic() - began < 20


async def test_results_that_cannot_be_written_are_said_before_the_load(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with gateway(GOOD) as url:
        run = await load(url, tmp_path / "file", "--requests", "2")
    assert run.code == 2
    assert run.output.startswith("error: results cannot be written to"), run.output


async def test_another_server_that_tells_no_usage_is_measured_by_its_events(
    tmp_path: Path,
) -> None:
    def event(text: str) -> bytes:
        content = {"choices": [{"delta": {"content": text}, "finish_reason": None}]}
        return b"data: " + json.dumps(content).encode() + b"\n\n"

    streamed = event("a") + event("b") + event("c") + b"data: [DONE]\n\n"
    silent = {"choices": [{"message": {"content": "two words"}, "finish_reason": "length"}]}
    options = ("--requests", "6", "--concurrency", "2", "--scenario", "short", *PATIENT)
    other = {**GOOD, "/health": "", "/v1/chat/completions": silent}
    async with gateway(other, streamed) as url:
        run = await load(url, tmp_path / "other", *options)
    assert run.code == 0, run.output
    total = run.result.total
    assert (total.ok, total.completion_tokens, total.estimated) == (6, 18, 6)
    assert "tokens are an ESTIMATE: 6 answers told no usage" in run.output
    assert all(sample.tokens_estimated for sample in run.samples)
    async with gateway(GOOD, streamed) as url:  # ours must tell
        run = await load(url, tmp_path / "ours", *options)
    assert run.result.total.errors == {"no usage": 6}
