"""Jobs: how many are accepted and done in a second, and how long a poll takes among many.

The gateway and its workers have one core; the mock engine, PostgreSQL, Redis and the clients share
the other. Everything goes over HTTP, as a client would; PostgreSQL writes through to the disk.
"""

import asyncio
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from api_server.local.process import Command
from api_server.services.jobs.waiting import step_of
from api_server.stores.jobs import JobStore, NewJob
from api_server.stores.postgres import Postgres
from benchmarks.bench import BenchError
from benchmarks.exchanges import KEY
from benchmarks.processes import Running, clean_environment, listen, running
from benchmarks.state import stores
from benchmarks.targets import GATEWAY_START_SECONDS, Place, stack_file

CLIENTS = 32
DONE_SECONDS = 120.0

_CHANCE = random.Random()  # noqa: S311 - no secret


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    jobs: int = 8000
    queued: int = 100_000
    polls: int = 500


QUICK = Size(jobs=200, queued=2000, polls=20)


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        """The JSON of a 200. Raises `BenchError`."""
        head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\n"
        if method == "POST":  # for a poll the id is enough
            head += f"authorization: Bearer {KEY}\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        content = await self._reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"{method} {path}: {content[:200]!r}")
        return json.loads(content)


async def report(place: Place, size: Size) -> str:
    """Measure; the figures in a few lines."""
    async with stores(place.harness, place.folder) as variables:
        postgres = Postgres(variables["POSTGRES_URL"])
        try:
            async with gateway(place, variables, workers=16) as (port, process):
                lines = [await _through(port, process, postgres, size.jobs)]
            async with gateway(place, variables, workers=0) as (port, _):
                lines += await _polls(port, JobStore(postgres), size)
        finally:
            await postgres.aclose()
    return "\n".join(lines)


async def _through(port: int, process: Running, postgres: Postgres, jobs: int) -> str:
    """Accept and do so many, both at once."""
    numbers = iter(range(jobs))
    took: list[float] = []
    began, cpu_seconds = time.perf_counter(), process.cpu_seconds()

    async def client() -> None:
        async with Client(port) as connection:
            for number in numbers:
                sent = time.perf_counter()
                await connection.ask("POST", "/ai_request", _request(number))
                took.append(time.perf_counter() - sent)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    accepted_seconds = time.perf_counter() - began
    left = "select count(*) as n from jobs where state <> 'completed'"
    while (await postgres.fetch(left))[0]["n"]:
        if time.perf_counter() - began > DONE_SECONDS:
            raise BenchError("the jobs are not done in time")
        await asyncio.sleep(0.05)
    done_seconds = time.perf_counter() - began
    cpu_ms = (process.cpu_seconds() - cpu_seconds) / jobs * 1000
    return (
        f"{jobs} jobs, {CLIENTS} clients: {jobs / accepted_seconds:.0f} accepted/s (median "
        f"{statistics.median(took) * 1000:.1f} ms), all completed at {jobs / done_seconds:.0f}/s; "
        f"the gateway used {cpu_ms:.2f} ms of its core for each"
    )


async def _polls(port: int, store: JobStore, size: Size) -> list[str]:
    """Ask for one among many, at rest and while others send."""
    ids = []
    for _ in range(0, size.queued, 1000):
        jobs = [_new_job() for _ in range(min(1000, size.queued))]
        ids += [job.id for job in jobs]
        await store.add([jobs], timeout_seconds=86_400, queue_size=2 * size.queued)
    rest = await _poll(port, ids, size.polls)
    exact = await _wrong_positions(store, ids)
    sending = asyncio.create_task(_send_steadily(port))
    try:
        busy = await _poll(port, ids, size.polls)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return [
        f"a poll of one among {len(ids)} queued: {rest}; {exact}",
        f"the same beside 4 clients that send: {busy}",
    ]


async def _poll(port: int, ids: Sequence[str], polls: int) -> str:
    took = []
    async with Client(port) as connection:
        for id_ in _CHANCE.sample(ids, polls):
            asked = time.perf_counter()
            said = await connection.ask("GET", f"/get_request/{id_}")
            took.append((time.perf_counter() - asked) * 1000)
            if said["status"] != "queued":
                raise BenchError(f"a job is {said['status']} that nobody does")
    took.sort()
    return f"median {statistics.median(took):.2f} ms, p99 {took[int(len(took) * 0.99)]:.2f} ms"


async def _wrong_positions(store: JobStore, ids: Sequence[str]) -> str:
    """Beside a count by hand, while nothing changes."""
    wrong = 0
    for id_ in _CHANCE.sample(ids, 20):
        row = await store.postgres.fetchrow(
            "select count(*) as n from job_queue as each join job_queue as mine "
            "on (each.tag, each.seq) <= (mine.tag, mine.seq) where mine.job_id = $1",
            id_,
        )
        found = (await store.find([id_]))[id_]
        wrong += row is None or found.position != row["n"]
    return f"{wrong} of 20 positions wrong"


async def _send_steadily(port: int) -> None:
    """So many that positions change all the time."""

    async def client() -> None:
        async with Client(port) as connection:
            while True:
                await connection.ask("POST", "/ai_request", _request(0))
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(4)))


def _request(number: int) -> bytes:
    body = {"request_type": "bench", "request": f"What is the number {number}?"}
    return json.dumps(body).encode()


def _new_job() -> NewJob:
    app = f"app_{secrets.randbelow(10)}"
    return NewJob(
        id=f"job_{secrets.token_urlsafe(24)}",
        app_id=app,
        user=None,
        request_type="bench",
        chat='{"model": "bench", "messages": []}',
        model="bench",
        priority="default",
        step=step_of(1.0, "default"),
        digest=b"",
    )


@asynccontextmanager
async def gateway(
    place: Place, variables: dict[str, str], workers: int
) -> AsyncIterator[tuple[int, Running]]:
    """One that does so many jobs at once; its port and its process."""
    config = place.folder / f"jobs-{workers}.yaml"
    document = yaml.safe_load(stack_file(place.engine_port, 1))
    document["jobs"] = {"workers": workers, "queue_size": 500_000, "timeout_seconds": 3600}
    config.write_text(yaml.safe_dump(document))
    with listen() as listener:
        environment = clean_environment(
            ENVIRONMENT="development",
            STACK_CONFIG=str(config),
            LISTEN_FD=str(listener.fileno()),
            DATA_DIR=tempfile.mkdtemp(prefix="data-", dir=place.folder),
            **variables,
        )
        argv = [sys.executable, "-m", "api_server", "serve"]
        log = place.folder / f"jobs-{workers}.log"
        program = Command("gateway", argv, environment, log, (listener.fileno(),))
        async with running(program, place.core) as process:
            port: int = listener.getsockname()[1]
            await process.wait_until_it_answers(port, GATEWAY_START_SECONDS)
            yield port, process
