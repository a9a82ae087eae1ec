"""Runs of assistants: how much later the first token comes than in a plain chat.

The gateway has one core; the mock engine, PostgreSQL, Redis and the clients share the other. Each
run is streamed from its creation; PostgreSQL writes through to the disk. Chats and runs take turns,
so that both meet the same machine.
"""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import BenchError
from benchmarks.exchanges import KEY
from benchmarks.jobs import gateway
from benchmarks.state import stores
from benchmarks.targets import Place

DELTA = b"event: thread.message.delta"
ANSWER = b"data: {"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    runs: int = 300
    clients: int = 8


QUICK = Size(runs=20, clients=2)


async def report(place: Place, size: Size) -> str:
    """Measure; the figures in a few lines."""
    async with (
        stores(place.harness, place.folder) as variables,
        gateway(place, variables, workers=0) as (port, _),
    ):
        made = await _ask(port, "/v1/assistants", {"model": "bench", "instructions": "Be brief."})
        lines = [await _beside(port, made["id"], size.runs, clients=1)]
        lines.append(await _beside(port, made["id"], size.runs, clients=size.clients))
    return "\n".join(lines)


async def _beside(port: int, assistant: str, runs: int, *, clients: int) -> str:
    numbers = iter(range(runs))
    chats: list[float] = []
    firsts: list[float] = []
    message = {"role": "user", "content": "What is a queue?"}

    async def client() -> None:
        for _ in numbers:
            chat = {"model": "bench", "messages": [message], "stream": True}
            chats.append(await _first(port, "/v1/chat/completions", chat, ANSWER))
            thread = await _ask(port, "/v1/threads", {"messages": [message]})
            run = {"assistant_id": assistant, "stream": True}
            firsts.append(await _first(port, f"/v1/threads/{thread['id']}/runs", run, DELTA))

    await asyncio.gather(*(client() for _ in range(clients)))
    chat, first = statistics.median(chats) * 1000, statistics.median(firsts) * 1000
    p90 = statistics.quantiles(firsts, n=10)[-1] * 1000
    return (
        f"{runs} runs, {clients} at once: the first token after {first:.1f} ms (median; p90 "
        f"{p90:.1f}), of a chat after {chat:.1f} ms: {first - chat:.1f} ms more"
    )


async def _first(port: int, path: str, body: Any, mark: bytes) -> float:
    """Seconds until a stream says this; it is read to its end."""
    reader, writer = await _send(port, path, body)
    try:
        began, seen, tail = time.perf_counter(), None, b""
        while block := await reader.read(65536):
            tail = tail[-200:] + block
            if seen is None and mark in tail:
                seen = time.perf_counter() - began
            if b"[DONE]" in tail:
                break
        if seen is None:
            raise BenchError(f"POST {path}: {tail[:300]!r}")
        return seen
    finally:
        writer.close()


async def _ask(port: int, path: str, body: Any) -> Any:
    """The JSON of a 200. Raises `BenchError`."""
    reader, writer = await _send(port, path, body)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        content = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"POST {path}: {content[:200]!r}")
        return json.loads(content)
    finally:
        writer.close()


async def _send(
    port: int, path: str, body: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return reader, writer
