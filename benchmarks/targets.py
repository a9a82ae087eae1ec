"""What is measured: a direct connection, our gateway, and the peers (benchmarks/peers.py)."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import yaml

from api_server.local.process import Command
from benchmarks.processes import Running, TargetError, clean_environment, listen, running
from benchmarks.state import stores

SLOTS = 1024
"""What the mock engine is said to do at once: more than any phase asks for."""

GATEWAY_START_SECONDS = 30.0

ENGINE_ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Where the mock engine listens, on one port: as many engines for who does not know better."""


@dataclass(frozen=True)
class Place:
    """Where a target runs: its core, everything else's, the mock engine's port, a folder."""

    core: int
    harness: int
    engine_port: int
    folder: Path


@dataclass(frozen=True)
class Endpoint:
    """Where to send requests, and what runs there; nothing for the direct connection."""

    port: int
    process: Running | None


@dataclass(frozen=True)
class Target:
    """A row of the table. `start` gives its endpoint, and stops it at the end."""

    name: str
    start: Callable[[Place], AbstractAsyncContextManager[Endpoint]]


@asynccontextmanager
async def direct(place: Place) -> AsyncIterator[Endpoint]:
    yield Endpoint(place.engine_port, None)


def stack_file(engine_port: int, replicas: int) -> str:
    """Default settings, and one model whose engines may be asked for plain answers."""
    model = {
        "id": "bench",
        "engine": "llm-serving-stack",
        "replicas": [f"http://{each}:{engine_port}" for each in ENGINE_ADDRESSES[:replicas]],
        "slots": SLOTS,
    }
    return yaml.safe_dump({"models": [model]})


@asynccontextmanager
async def gateway(
    place: Place, replicas: int = 1, *, has_state: bool = True
) -> AsyncIterator[Endpoint]:
    """`python -m api_server serve` as a user runs it: default settings, JSON logs into a file.

    With its state, it knows who asks, keeps to limits and writes down what was used, in PostgreSQL
    and Redis on the harness's core.
    """
    async with AsyncExitStack() as stack:
        variables = {"AUTH": "off"}
        if has_state:
            variables = await stack.enter_async_context(stores(place.harness, place.folder))
        yield await stack.enter_async_context(_serving(place, replicas, variables))


@asynccontextmanager
async def _serving(
    place: Place, replicas: int, variables: dict[str, str]
) -> AsyncIterator[Endpoint]:
    path = place.folder / "stack.yaml"
    path.write_text(stack_file(place.engine_port, replicas))
    with listen() as listener:
        port: int = listener.getsockname()[1]
        environment = clean_environment(
            ENVIRONMENT="development",
            STACK_CONFIG=str(path),
            LISTEN_FD=str(listener.fileno()),
            DATA_DIR=tempfile.mkdtemp(prefix="data-", dir=place.folder),
            **variables,
        )
        argv = [sys.executable, "-m", "api_server", "serve"]
        log_path = place.folder / "gateway.log"
        fds = (listener.fileno(),)
        program = Command("gateway", argv, environment, log_path, fds)
        async with running(program, place.core) as process:
            await process.wait_until_it_answers(port, GATEWAY_START_SECONDS)
            yield Endpoint(port, process)
    with log_path.open("rb") as log:
        retries = sum(line.retries for line in log_lines(log))
    if retries:  # or a replica that is away would show as a little slowness
        raise TargetError(f"{retries} requests had to be tried again")


class LogLine(msgspec.Struct):
    """Of the gateway's log. A request that an engine answered names that replica."""

    replica: str | None = None
    retries: int = 0


def log_lines(log: Iterable[bytes]) -> Iterator[LogLine]:
    """What the gateway's log tells of its requests."""
    decoder = msgspec.json.Decoder(LogLine)
    return (decoder.decode(line) for line in log)


DIRECT = Target("direct", direct)
GATEWAY = Target("**llm-serving-stack**", gateway)
WITHOUT_STATE = Target("llm-serving-stack, no state", partial(gateway, has_state=False))
GATEWAY_OF_FOUR = Target("llm-serving-stack, 4 replicas", partial(gateway, replicas=4))
