"""The end of one of several gateways: what a proxy in front sends in that moment is answered."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api_server.main import create_app
from api_server.server import LINGER_SECONDS, Server, configuration, listen
from api_server.settings import load_settings
from tests.access import make_app
from tests.integration.conftest import raw_connection
from tests.replicas import RunningGateway, running_gateway, running_replicas

ASK = b"GET /health/live HTTP/1.1\r\nhost: gateway\r\n\r\n"
CHAT = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    | {"tokens": 60, "pause": 0.05}
).encode()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def production(
    tmp_path: Path, postgres_url: str
) -> AsyncIterator[tuple[RunningGateway, str]]:
    """A gateway as `make start` has it, and a key for it."""
    key = (await make_app(postgres_url)).key
    assert key is not None
    told = {"ENVIRONMENT": "production", "AUTH": "on", "POSTGRES_URL": postgres_url}
    told |= {"DRAIN_SECONDS": "20", "DATA_DIR": str(tmp_path)}
    async with (
        running_replicas(1) as replicas,
        running_gateway(tmp_path, {"m": replicas}, variables=told) as gateway,
    ):
        yield gateway, key


async def asked(streams: Streams) -> bytes:
    """The head of one answer; its body is read too."""
    reader, writer = streams
    writer.write(ASK)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    await reader.readexactly(int(length.split(b":")[1]))
    return head


async def test_connections_of_a_proxy_end_without_losing_a_request(
    tmp_path: Path, postgres_url: str
) -> None:
    async with (
        production(tmp_path, postgres_url) as (gateway, key),
        contextlib.AsyncExitStack() as all_,
    ):
        kept, idle, unused, chat = [
            await all_.enter_async_context(raw_connection(gateway.url)) for _ in range(4)
        ]
        assert b"connection: close" not in await asked(kept)
        assert b"connection: close" not in await asked(idle)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\n"
        chat[1].write(f"{head}content-length: {len(CHAT)}\r\n\r\n".encode() + CHAT)
        answer = await asyncio.wait_for(chat[0].readuntil(b"\r\n\r\n"), 5)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        gateway.process.send_signal(signal.SIGTERM)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.4)
        with pytest.raises(ConnectionRefusedError):
            async with raw_connection(gateway.url):
                pass
        for used in (kept, unused):
            assert b"connection: close\r\n" in await asked(used)
            assert await asyncio.wait_for(used[0].read(), 5) == b"", "and it is closed"
        assert await asyncio.wait_for(idle[0].read(), 5) == b""
        assert asyncio.get_running_loop().time() - began > LINGER_SECONDS - 0.3
        assert b"data: [DONE]" in await asyncio.wait_for(chat[0].read(), 10), "and closed as well"
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0


async def test_a_connection_that_nobody_has_taken_yet_is_answered(tmp_path: Path) -> None:
    """As after a burst: the kernel has it, and has told whoever connected."""
    config = tmp_path / "stack.yaml"
    config.write_text("models: [{id: m, replicas: ['http://127.0.0.1:1']}]")
    told = {"STACK_CONFIG": str(config), "DATA_DIR": str(tmp_path)}
    settings = load_settings(told | {"ENVIRONMENT": "development", "AUTH": "off"})
    with listen("127.0.0.1", 0) as listener:
        server = Server(configuration(create_app(settings), settings))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        with socket.create_connection(listener.getsockname(), timeout=5) as client:
            client.sendall(ASK)
            await server.shutdown([listener])  # nothing between: the loop has not turned
            answer = await asyncio.to_thread(client.recv, 4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"connection: close\r\n" in answer
