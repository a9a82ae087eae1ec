"""The benchmark as a whole with tiny counts: figures are there, errors are errors, nothing stays.

No test here says anything about speed.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from benchmarks import phases
from benchmarks.bench import QUICK, run_rounds
from benchmarks.exchanges import PlainExchange, StreamExchange
from benchmarks.mock_engine import PLAIN
from benchmarks.phases import run_once
from benchmarks.targets import Endpoint, Place, Target
from tests.local_stack import REPOSITORY, eventually, processes

needs_two_cores = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="the benchmark needs two cores"
)


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--quick", *more],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_over(folder: Path) -> list[str]:
    """Processes that know the benchmark's folder for temporary files, and files in it."""
    running = [line for _, line, environment in processes() if f"TMPDIR={folder}" in environment]
    return running + [path.name for path in folder.iterdir()]


@needs_two_cores
def test_every_figure_is_there(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, progress = process.communicate(timeout=100)
    assert process.returncode == 0, output + progress
    rows = {
        cells[0]: cells[1:]
        for line in output.splitlines()
        if line.startswith("|")
        for cells in [[cell.strip(" *") for cell in line.strip("|").split("|")]]
    }
    assert [float(cell.replace(",", "")) for cell in rows["direct"] if cell != "-"]
    for name in ("llm-serving-stack", "llm-serving-stack, 4 replicas"):
        figures = [float(cell.replace(",", "")) for cell in rows[name]]
        assert len(figures) == 10
        plain, _, cpu_request, _, _, cpu_token, tokens, _, first_token, peak = figures
        assert min(plain, cpu_request, cpu_token, tokens, first_token, peak) >= 0
        assert plain > 1
        assert peak > 10
    compared = r"^llm-serving-stack, 4 replicas, by llm-serving-stack: plain req/s [\d.]+,"
    assert re.search(compared, output, re.MULTILINE)
    assert re.search(r"resident [\d.]+ MiB before, [\d.]+ MiB after", output)
    assert not left_over(tmp_path)


def test_the_cost_of_choosing_a_replica_is_printed(tmp_path: Path) -> None:
    process = start(tmp_path, "--choosing")
    output, progress = process.communicate(timeout=60)
    assert process.returncode == 0, progress
    rows = [line.strip("| ").split(" | ") for line in output.splitlines()[2:]]
    assert [(int(row[0]), int(row[1])) for row in rows] == [
        (replicas, messages) for replicas in (1, 2, 4, 8) for messages in (1, 50)
    ]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])


def test_the_cost_of_the_ledger_is_printed(tmp_path: Path) -> None:
    process = start(tmp_path, "--ledger")
    output, progress = process.communicate(timeout=60)
    assert process.returncode == 0, progress
    rows = [line.strip("| ").split(" | ") for line in output.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [0, 500]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])


def test_it_needs_nothing_that_only_developers_have() -> None:
    """`make bench` runs where requirements-dev.txt is not installed."""
    program = "import sys; sys.modules['httpx'] = None; import benchmarks.__main__"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_two_cores
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stderr is not None
    while "llm-serving-stack" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in rest
    eventually(lambda: not left_over(tmp_path), 5, "everything is gone")


class Saying(asyncio.Protocol):
    """Answers the first bytes with fixed ones and ends the connection; or says nothing at all."""

    def __init__(
        self, answer: bytes, connections: set[asyncio.Transport], after_seconds: float
    ) -> None:
        self._answer = answer
        self._connections = connections
        self._after_seconds = after_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self._transport)

    def data_received(self, _data: bytes) -> None:
        if self._answer:
            loop = asyncio.get_running_loop()
            loop.call_later(self._after_seconds, self._say)

    def _say(self) -> None:
        self._transport.write(self._answer)
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._connections.discard(self._transport)


@asynccontextmanager
async def server_that_says(answer: bytes, after_seconds: float = 0) -> AsyncIterator[int]:
    """The port of a server with that one answer."""
    connections: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Saying(answer, connections, after_seconds), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
        while connections:
            await asyncio.sleep(0.01)


ERRORS = {
    "HTTP 503": b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
    "broke off": b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{",
    "no answer in HTTP": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("expected", ERRORS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_wrong_answers_fail_the_run(expected: str, is_stream: bool) -> None:
    async with server_that_says(ERRORS[expected]) as port:
        exchange = StreamExchange(iter((5, 5))) if is_stream else PlainExchange()
        counted = await run_once(port, [exchange], 5)
    assert expected in counted.errors[0]
    assert not counted.answers


async def test_silence_fails_the_run() -> None:
    async with server_that_says(b"") as port:
        counted = await run_once(port, [PlainExchange()], 0.2)
    assert "no answer" in counted.errors[0]


async def test_what_is_slow_to_begin_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "DRAIN_SECONDS", 0.05)
    bounds = phases.Bounds(0, 0.05, max_warm_up_seconds=0.05)
    async with server_that_says(PLAIN, after_seconds=0.5) as port:
        counted = await phases.run_phase(port, [PlainExchange()], bounds, lambda: 0.0)
    assert not counted.errors
    assert counted.cut == 0


async def test_a_target_with_errors_gets_no_figures(tmp_path: Path) -> None:
    async with server_that_says(ERRORS["HTTP 503"]) as port:

        @asynccontextmanager
        async def start_it(_place: Place) -> AsyncIterator[Endpoint]:
            yield Endpoint(port, None)

        (row,) = await run_rounds(
            [Target("broken", start_it)], QUICK, Place(0, 0, port, tmp_path), lambda _line: None
        )
    assert row.is_wrong
    assert not row.rounds
    assert "HTTP 503: busy" in (row.failure or "")


@needs_two_cores
def test_jobs_are_measured(tmp_path: Path) -> None:
    process = start(tmp_path, "--jobs")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert re.search(r"200 jobs, 32 clients: \d+ accepted/s .* all completed at \d+/s", output)
    assert "0 of 20 positions wrong" in output
