"""Real engines with the shipped model, and our gateway in front of them, as processes."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import yaml

from api_server.local.plan import EnginePlan
from api_server.local.process import Command, free_port
from api_server.settings import REPOSITORY
from benchmarks.processes import Running, TargetError, clean_environment, listen, running

START_SECONDS = 60.0
CONTEXT_TOKENS = 2048
"""Of a slot; the tiny model was trained on no more."""

MODEL_ID = "tiny"
MODEL = REPOSITORY / "models/tiny/tiny-q8_0.gguf"


@asynccontextmanager
async def engines(binary: Path, folder: Path, count: int, slots: int) -> AsyncIterator[list[str]]:
    """Engines with empty caches, started as `make local` starts them; their base URLs."""
    plan = EnginePlan(MODEL_ID, MODEL, slots, CONTEXT_TOKENS, threads=1)
    async with AsyncExitStack() as stack:
        urls = []
        for number in range(count):
            port = free_port()
            argv = [str(binary), *plan.arguments(port)]
            log_path = folder / f"engine-{number}.log"
            command = Command(f"engine {number}", argv, clean_environment(), log_path)
            engine = await stack.enter_async_context(running(command))
            urls.append(await _until_ready(engine, f"http://127.0.0.1:{port}", "/health"))
        yield urls


@asynccontextmanager
async def gateway(
    log_path: Path, urls: Sequence[str], slots: int, *, affinity: bool
) -> AsyncIterator[str]:
    """`python -m api_server serve` with default settings but for the affinity; its base URL."""
    folder = log_path.parent
    path = folder / "stack.yaml"
    model = {"id": MODEL_ID, "replicas": list(urls), "slots": slots}
    balancing = {"prefix_affinity": affinity}
    path.write_text(yaml.safe_dump({"models": [model], "balancing": balancing}))
    with listen() as listener:
        port: int = listener.getsockname()[1]
        environment = clean_environment(
            ENVIRONMENT="development",
            AUTH="off",
            STACK_CONFIG=str(path),
            LISTEN_FD=str(listener.fileno()),
            DATA_DIR=str(folder),
        )
        argv = [sys.executable, "-m", "api_server", "serve"]
        command = Command("gateway", argv, environment, log_path, (listener.fileno(),))
        async with running(command) as process:
            yield await _until_ready(process, f"http://127.0.0.1:{port}", "/health/ready")


async def _until_ready(program: Running, url: str, path: str) -> str:
    """Wait until it says that it can serve; its base URL. Raises `TargetError`."""
    deadline = time.monotonic() + START_SECONDS
    async with httpx.AsyncClient() as http:
        while time.monotonic() < deadline:
            program.raise_if_ended()
            try:
                answer = await http.get(url + path)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return url
            await asyncio.sleep(0.1)
    raise TargetError(f"{program.program.name} was not ready within {START_SECONDS:g} s")
