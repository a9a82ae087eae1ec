"""Engines that fail and a gateway in front of them, each a process of its own, seen from outside.

The engines are `tests/fake_engine`; the gateway is `python -m api_server serve` with models whose
replicas they are. Everything ends with the `async with` that started it.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import yaml

from api_server.local.process import free_port
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.samples import samples

START_SECONDS = 20
ANSWER_SECONDS = 5
WORK = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


async def until(claim: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait until a claim holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not await claim():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Counts:
    """What an engine counted so far; `request_ids` has how often each was sent to it, and
    `finished_tokens` the tokens of each that got a whole answer.
    """

    running: int
    queued: int
    finished: int
    cancelled: int
    faulted: int
    predicted_tokens: int
    connections: int
    requests: Mapping[str, int]
    request_ids: Mapping[str, int]
    finished_tokens: Mapping[str, int]

    @property
    def asked(self) -> int:
        """Requests for generations and vectors."""
        return sum(self.requests.get(path, 0) for path in WORK)


class Replica:
    """One engine. It keeps its port when it is killed and started again."""

    def __init__(self, slots: int = 0) -> None:
        self._slots = slots
        self._process: Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, on the port that it had before; what it had counted is gone."""
        options = ("--port", str(self.port), "--slots", str(self._slots))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fake_engine", *options), cwd=REPOSITORY, stdout=PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            line = (await self._process.stdout.readline()).decode()
        assert line, "the fake engine does not start"
        self.port = int(line.rsplit(":", 1)[1])

    async def kill(self) -> None:
        """End it with SIGKILL, whatever state it is in."""
        if self._process is not None:
            await _end(self._process)
            self._process = None

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Stop it with SIGSTOP: its port still takes connections, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was killed"
        self._process.send_signal(number)

    async def order(self, **told: Any) -> None:
        """Tell it how to behave from now on; nothing at all makes it well (see its `Orders`)."""
        async with _http() as http:
            answer = await http.post(f"{self.url}/fault", json=told)
        assert answer.status_code == 200, answer.text

    async def counts(self) -> Counts:
        async with _http() as http:
            return Counts(**(await http.get(f"{self.url}/counts")).raise_for_status().json())


@dataclass
class RunningGateway:
    """A gateway in front of replicas."""

    process: Process
    url: str
    log_path: Path

    def client(self) -> openai.AsyncOpenAI:
        """The official client, that never tries again. Use as a context manager."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=60,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),  # else 50 ms for nothing
        )

    async def metrics(self) -> dict[tuple[str, ...], float]:
        async with _http() as http:
            return samples((await http.get(f"{self.url}/metrics")).raise_for_status().content)

    async def in_flight(self) -> dict[tuple[str, ...], float]:
        """Model and phase to the requests in it, without those that have none."""
        counted = await self.metrics()
        name = "llm_gateway_in_flight"
        found = {key[1:]: value for key, value in counted.items() if key[0] == name}
        assert found, f"{name} is no metric of the gateway"
        return {key: value for key, value in found.items() if value}

    async def is_ready(self) -> bool:
        """Whether it says that it could serve a token now."""
        async with _http() as http:
            return (await http.get(f"{self.url}/health/ready")).status_code == 200

    def log(self) -> str:
        return self.log_path.read_text()


@asynccontextmanager
async def running_replicas(count: int, *, slots: int = 0) -> AsyncIterator[list[Replica]]:
    """So many engines, each with so many slots (0: no bound)."""
    replicas = [Replica(slots) for _ in range(count)]
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        yield replicas
    finally:
        await asyncio.gather(*(replica.kill() for replica in replicas))


@asynccontextmanager
async def running_gateway(
    folder: Path,
    models: Mapping[str, Sequence[Replica]],
    /,
    *,
    port: int = 0,
    variables: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[RunningGateway]:
    """A gateway that serves each model from its replicas; `sections` of its stack file beside,
    or `models` among them in the place of those. It ends with a SIGKILL.
    """
    entries = [
        {"id": name, "replicas": [replica.url for replica in replicas], "slots": 64}
        for name, replicas in models.items()
    ]
    config = folder / "stack.yaml"
    config.write_text(yaml.safe_dump({"models": entries} | sections))
    port = port or free_port()
    told = {"STACK_CONFIG": str(config), "PORT": str(port)} | dict(variables or {})
    log_path = folder / "gateway.log"
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api_server", "serve"),
            cwd=REPOSITORY,
            env=os.environ | NEUTRAL | told,
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
        )
    gateway = RunningGateway(process, f"http://127.0.0.1:{port}", log_path)

    async def is_up() -> bool:
        assert process.returncode is None, gateway.log()
        with contextlib.suppress(httpx.TransportError):
            return await gateway.is_ready()
        return False

    try:
        await until(is_up, START_SECONDS, "the gateway is ready")
        yield gateway
    finally:
        await _end(process)


async def settled(gateway: RunningGateway, replicas: Sequence[Replica], seconds: float = 2) -> None:
    """No request is left, neither in the gateway nor in an engine that lives."""
    left: list[object] = []

    async def nothing_is_left() -> bool:
        left[:] = [await gateway.in_flight()]
        left.extend([(c.running, c.queued) for c in [await r.counts() for r in replicas]])
        return not left[0] and all(count == (0, 0) for count in left[1:])

    try:
        await until(nothing_is_left, seconds, "no request is left")
    except AssertionError as exc:
        exc.add_note(f"left in the gateway and in each engine: {left}")
        raise


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    async with asyncio.timeout(START_SECONDS):
        await process.wait()
        if process.stdout is not None:
            await process.stdout.read()


def _http() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=ANSWER_SECONDS)
