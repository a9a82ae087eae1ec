"""`python -m monitoring` beside a real gateway: its figures, its exit codes, and in a terminal."""

import asyncio
import contextlib
import fcntl
import http.server
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api_server.local.process import free_port
from api_server.observability.metrics import DURATION
from benchmarks.figures import percentile
from monitoring.slo import load_slo
from monitoring.terminal import gateway as gateway_client
from monitoring.terminal.gateway import GatewayClient, NoGatewayError, UnreachableError
from monitoring.terminal.watch import Watch
from tests.front import HAPROXY, running_front
from tests.local_stack import REPOSITORY
from tests.replicas import Replica, RunningGateway, running_gateway, running_replicas, until

COMMAND = (sys.executable, "-m", "monitoring")
END_SECONDS = 20
CONFIGURED = {"NO_COLOR", "TERM", "COLUMNS", "LINES"}
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


def environment(**told: str) -> dict[str, str]:
    return {name: each for name, each in os.environ.items() if name not in CONFIGURED} | told


def monitor(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *options],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )


@asynccontextmanager
async def stack(folder: Path, **sections: Any) -> AsyncIterator[tuple[Replica, RunningGateway]]:
    async with (
        running_replicas(1) as replicas,
        running_gateway(folder, {"fake": replicas}, **sections) as gateway,
    ):
        yield replicas[0], gateway


async def load(gateway: RunningGateway, requests: int, at_once: int, **body: Any) -> list[float]:
    """Streamed chats, so many at a time; how long each took its client, in seconds."""
    took: list[float] = []
    places = asyncio.Semaphore(at_once)
    async with gateway.client() as client:

        async def chat() -> None:
            async with places:
                began = time.perf_counter()
                stream = await client.chat.completions.create(
                    model="fake",
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                    extra_body=body,
                )
                async for _ in stream:
                    pass
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(chat() for _ in range(requests)))
    return took


def bucket(seconds: float) -> int:
    return bisect_left(DURATION.buckets, seconds)


@asynccontextmanager
async def two_gateways(folder: Path) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    async with running_replicas(1) as replicas, AsyncExitStack() as stack:
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        first, second = [
            await stack.enter_async_context(running_gateway(folder / name, {"fake": replicas}))
            for name in ("a", "b")
        ]
        await load(first, 5, 5)
        await load(second, 5, 5)
        yield first, second


async def test_several_gateways_are_added_up_and_one_that_is_away_is_told(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (first, second):
        urls = f"{first.url},{second.url}"
        looking = asyncio.create_task(
            asyncio.to_thread(monitor, "--once", "--json", "--interval", "4", "--url", urls)
        )
        await asyncio.sleep(2)
        await load(first, 7, 7)
        await load(second, 4, 4)
        told = json.loads((ran := await looking).stdout)
        assert (ran.returncode, told["problem"], told["silent_gateways"]) == (0, None, [])
        assert (told["figures"]["requests"], told["requests_ever"]) == (11, 21)
        assert told["figures"]["workers"] == 2
        nobody = f"http://127.0.0.1:{free_port()}"
        ran = await asyncio.to_thread(
            monitor, "--once", "--interval", "0.2", "--url", first.url, "--url", nobody
        )
        assert ran.returncode == 1
        assert f"{nobody} does not answer" in ran.stdout
        twice = f"{first.url},{first.url}/,{first.url.replace('127.0.0.1', 'localhost')}"
        ran = await asyncio.to_thread(
            monitor, "--once", "--json", "--interval", "0.2", "--url", twice
        )
        assert (ran.returncode, json.loads(ran.stdout)["requests_ever"]) == (0, 12), "it is one"


@pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy")
async def test_gateways_that_answer_in_turn_are_noticed(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (first, second):
        addresses = [each.url.removeprefix("http://") for each in (first, second)]
        async with running_front(tmp_path, addresses) as front:
            client = GatewayClient(front.url)
            watch = Watch(client.url, load_slo().workloads["typical"], 60.0, None)
            async with asyncio.timeout(20):
                while watch.view.trouble is None:
                    await asyncio.sleep(0.3)
                    watch.saw(await asyncio.to_thread(client.look))
        assert "several gateways answer there in turn" in watch.view.trouble.text
        assert watch.view.trouble.is_reachable


@pytest.mark.parametrize("workers", [1, 4])
async def test_its_count_is_exact_and_its_p95_is_that_of_the_clients(
    tmp_path: Path, workers: int
) -> None:
    promised = load_slo().workloads["typical"]
    async with stack(tmp_path, gateway={"workers": workers}) as (_, gateway):
        await load(gateway, 5, 5)
        client = GatewayClient(gateway.url)
        watch = Watch(client.url, promised, 60.0, None)
        watch.saw(await asyncio.to_thread(client.look))
        took = await load(gateway, 60, 6, tokens=6, pause=0.02)
        watch.saw(await asyncio.to_thread(client.look))
        view = watch.view
        assert view.lately is not None
        assert (view.lately.requests, view.requests_ever) == (60, 65)
        assert (view.lately.latency.count, view.lately.first_token.count) == (60, 60)
        assert view.lately.output_tokens == 360
        found = view.lately.latency.seconds["p95"]
        assert found is not None
        assert abs(bucket(found) - bucket(percentile(took, 95))) <= 1
        first = view.lately.first_token.seconds["p95"]
        assert first is not None
        assert first < found
        assert view.health is not None
        assert view.health.models == ("fake",)
        assert view.now is not None
        assert (view.now.workers, view.now.slots) == (workers, 64)


async def test_once_as_json_while_there_is_load(tmp_path: Path) -> None:
    async with stack(tmp_path) as (replica, gateway):

        async def looks() -> float:
            counted = await gateway.metrics()
            name = "llm_gateway_requests_total"
            return sum(n for key, n in counted.items() if key[0] == name and "/health" in key)

        async def has_looked() -> bool:
            return await looks() > before

        before = await looks()
        options = ("--once", "--json", "--interval", "4", "--url", gateway.url)
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *options), cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE
        )
        await until(has_looked, END_SECONDS, "the monitor has looked once")
        await load(gateway, 20, 5, tokens=3)
        await replica.order(fault="error_500")
        with pytest.raises(Exception, match="Error code"):
            await load(gateway, 1, 1)
        async with asyncio.timeout(END_SECONDS):
            output, _ = await process.communicate()
    told = json.loads(output)
    assert process.returncode == 1
    assert told["schema_version"] == 1
    assert told["figures"]["requests"] == 21
    assert told["figures"]["latency_seconds"]["count"] == 20
    assert told["figures"]["errors_by_kind"] == {"engine": 1}
    assert told["figures"]["error_rate"] == pytest.approx(1 / 21)
    assert told["figures"]["slots"] == 64
    targets = {each["name"]: each["is_met"] for each in told["targets"]}
    assert targets == {"p50": True, "p95": True, "p99": True, "error_rate": False}


async def test_a_fresh_gateway_is_well_and_away_is_away(tmp_path: Path) -> None:
    options = ("--once", "--interval", "0.2", "--url")
    async with stack(tmp_path) as (_, gateway):
        page = await asyncio.to_thread(monitor, *options, gateway.url)
        assert page.returncode == 0, page.stderr
        assert "no requests yet" in page.stdout
        assert "nan" not in page.stdout.lower()
        assert "\x1b" not in page.stdout
        other = await asyncio.to_thread(monitor, *options, gateway.url, "--model", "huge")
        assert other.returncode == 1
        assert "no model 'huge'; known: fake" in other.stdout
    page = await asyncio.to_thread(monitor, *options, gateway.url)
    assert page.returncode == 2
    assert "NOT REACHABLE: Connection refused" in page.stdout


@contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Answers every GET in this way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{found.server_port}"
        finally:
            found.shutdown()
            thread.join()


def answering(body: bytes, length: int | None = None) -> Any:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (lambda handler: handler.send_error(404), 1, "answered with 404"),
        (answering(b"<html>"), 1, "line 1 of the metrics"),
        (answering(b"up 1\n"), 1, "not those of a gateway"),
        (lambda handler: handler.wfile.write(b"220 mail\r\n"), 1, "not answered in HTTP"),
        (answering(b"llm_gateway_workers 1\n", 99), 2, "breaks off"),
        (lambda _: None, 2, ""),
    ],
)
def test_whoever_is_no_gateway_is_told(answer: Any, code: int, said: str) -> None:
    with server(answer) as url:
        page = monitor("--once", "--json", "--url", url)
    assert page.returncode == code, page.stderr
    assert said in json.loads(page.stdout)["problem"]


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            handler.wfile.write(b"#")
            time.sleep(0.05)


def test_nothing_is_waited_for_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
            GatewayClient(url, timeout_seconds=0.2).look()
    with server(dripping) as url, pytest.raises(UnreachableError, match="does not end within"):
        GatewayClient(url, timeout_seconds=0.2).look()


def test_nothing_is_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_client, "MOST_BYTES", 10)
    with server(answering(b"#" * 99)) as url, pytest.raises(NoGatewayError, match="larger than 10"):
        GatewayClient(url).look()


@pytest.mark.parametrize(
    "options",
    [
        *(("--url", "ftp://x"), ("--url", "http://x:99999999"), ("--json",), ("--interval", "0")),
        *(("--interval", "70"), ("--workload", "none")),
        *(("--url", "http://a..b"), ("--url", "http://x/\u00e9"), ("--url", "http://x/a b")),
    ],
)
def test_a_wrong_option_is_said(options: tuple[str, ...]) -> None:
    page = monitor("--url", f"http://127.0.0.1:{free_port()}", *options)
    assert page.returncode == 2
    assert "error: " in page.stderr
    assert "Traceback" not in page.stderr


class Terminal:
    """A monitor in a terminal of its own."""

    def __init__(self, columns: int, rows: int, *options: str, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self._ours)
        self.process = subprocess.Popen(
            [*COMMAND, *options],
            cwd=REPOSITORY,
            env=environment(TERM="xterm", **variables),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.output = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds: float) -> bytes:
        """What it writes in so much time."""
        found = b""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._ours], [], [], left)[0]:
                try:
                    block = os.read(self._ours, 65536)
                except OSError:  # it has ended
                    break
                if not block:
                    break
                found += block
        self.output += found
        return found

    def until(self, text: str, seconds: float = END_SECONDS) -> str:
        """The last whole page, once the text is on one."""
        deadline = time.monotonic() + seconds
        seen = b""
        while text not in (page := seen.rpartition(b"\x1b[H")[2].decode(errors="replace")):
            assert time.monotonic() < deadline, f"not on the screen: {text}\n{page}"
            assert self.process.poll() is None
            seen += self.read(0.1)
        return page

    def close(self) -> None:
        self.process.kill()
        self.process.wait(END_SECONDS)
        os.close(self._ours)


@contextmanager
def terminal(columns: int, rows: int, *options: str, no_color: str = "") -> Iterator[Terminal]:
    found = Terminal(columns, rows, *options, NO_COLOR=no_color)
    try:
        yield found
    finally:
        found.close()


def watch_resize_and_end(url: str) -> None:
    with terminal(80, 24, "--url", url, "--interval", "0.3", "--window", "3") as screen:
        page = screen.until("processes")
        assert page.count("\n") < 24
        assert HIDE in screen.output
        assert "\x1b[32mok" in page
        screen.resize(60, 8)
        os.kill(screen.process.pid, signal.SIGWINCH)
        page = screen.until("left out: ")
        assert page.count("\n") < 8
        screen.read(2)
        assert not termios.tcgetattr(screen._ours)[3] & termios.ECHO
        screen.process.send_signal(signal.SIGINT)
        ended = screen.read(3)
        assert screen.process.wait(END_SECONDS) == 0
        assert ended.endswith(SHOW + b"\x1b[?1049l")
        assert b"Traceback" not in screen.output


async def test_in_a_terminal_it_draws_resizes_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    async with stack(tmp_path) as (_, gateway):
        loading = asyncio.create_task(load(gateway, 400, 2, pause=0.01))
        await asyncio.to_thread(watch_resize_and_end, gateway.url)
        loading.cancel()
        await asyncio.wait({loading})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_leave_the_terminal_as_it_was_too(number: signal.Signals) -> None:
    with terminal(80, 24, "--url", f"http://127.0.0.1:{free_port()}") as screen:
        before = screen.before
        screen.until("NOT REACHABLE")
        screen.process.send_signal(number)
        assert screen.read(3).endswith(SHOW + b"\x1b[?1049l")
        assert screen.process.wait(END_SECONDS) == 0
        assert termios.tcgetattr(screen._ours)[3] == before[3]


def test_no_color() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with terminal(80, 24, "--url", url, no_color="1") as screen:
        assert "\x1b[1" not in screen.until("NOT REACHABLE")
    with terminal(80, 24, "--url", url) as screen:
        assert "\x1b[1;31m" in screen.until("NOT REACHABLE")


async def test_a_gateway_that_goes_and_comes_back_is_shown(tmp_path: Path) -> None:
    port = free_port()
    async with running_replicas(1) as replicas:
        with terminal(
            *(80, 24, "--url", f"http://127.0.0.1:{port}", "--interval", "0.2")
        ) as screen:
            await asyncio.to_thread(screen.until, "NOT REACHABLE")
            async with running_gateway(tmp_path, {"fake": replicas}, port=port) as gateway:
                await asyncio.to_thread(screen.until, "no requests yet")
                await load(gateway, 7, 7)
                await asyncio.to_thread(screen.until, "7 requests in the last")
            page = await asyncio.to_thread(screen.until, "old; tried for")
            assert "end to end" in page
            async with running_gateway(tmp_path, {"fake": replicas}, port=port) as gateway:
                await load(gateway, 2, 2)
                await asyncio.to_thread(screen.until, "9 requests in the last")
            assert b"Traceback" not in screen.output


async def test_on_a_pipe_it_prints_pages_until_it_is_interrupted(tmp_path: Path) -> None:
    async with stack(tmp_path) as (_, gateway):
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--url", gateway.url, "--interval", "0.3"),
            cwd=REPOSITORY,
            env=environment(TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(END_SECONDS):
            while b"no requests yet" not in (output := await process.stdout.readline()):
                assert output
            process.send_signal(signal.SIGINT)
            output, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert b"\x1b" not in output
