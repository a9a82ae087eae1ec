"""A real gateway on a real socket, in front of the fake engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from api_server.main import Gateway, create_app
from api_server.server import Server, configuration
from api_server.settings import load_settings
from tests.fake_engine import FakeEngine, running_engine

TIMEOUTS = {
    "queue_seconds": 0.5,
    "connect_seconds": 0.5,
    "first_token_seconds": 0.5,
    "idle_seconds": 0.5,
}


@asynccontextmanager
async def raw_connection(
    url: str, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A socket to the gateway, for what no HTTP client would send."""
    port = int(url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@dataclass
class Stack:
    """The pair under test, and clients for it."""

    engine: FakeEngine
    gateway: Gateway
    url: str
    client: openai.AsyncOpenAI


@asynccontextmanager
async def running_gateway(
    folder: Path,
    engine: FakeEngine,
    *,
    variables: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[tuple[Gateway, str]]:
    """With these `sections` of a stack file and these environment variables."""
    document = {
        "timeouts": TIMEOUTS | {"total_seconds": 5},
        "gateway": {"body_timeout_seconds": 0.5},
        "breaker": {"open_seconds": 0.05},
        "models": [{"id": "fake", "replicas": [f"http://127.0.0.1:{engine.port}"]}],
    }
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(document | sections))
    open_to_all = {"ENVIRONMENT": "development", "AUTH": "off", "DATA_DIR": str(folder)}
    settings = load_settings({"STACK_CONFIG": str(path)} | open_to_all | dict(variables or {}))
    gateway = create_app(settings)
    config = configuration(gateway, settings)
    config.port = 0
    config.timeout_graceful_shutdown = 1
    server = Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield gateway, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = settings.postgres_url is None  # else it has connections to close
        await task
        await server.lifespan.shutdown()  # which a forced exit leaves out


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine) as (gateway, url),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Stack(engine, gateway, url, client)
