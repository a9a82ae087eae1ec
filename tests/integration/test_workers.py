"""`serve` with several worker processes: one socket, one truth in `/metrics`, drain, kill -9."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from api_server.local.process import free_port
from api_server.observability.metrics import FAMILIES
from api_server.server import listen
from api_server.workers import SILENT_LOOKS, STOP_MARGIN_SECONDS
from tests.access import make_app, managed_apps
from tests.integration.test_metrics import scrape
from tests.integration.test_serve import collect, exit_code, until_ready
from tests.local_stack import NEUTRAL, REPOSITORY
from tests.samples import samples

CHAT = "/v1/chat/completions"
OK = ("llm_gateway_requests_total", "ok", CHAT, "200")
INPUT = ("gen_ai_client_token_usage_total", "fake", "input")
OUTPUT = ("gen_ai_client_token_usage_total", "fake", "output")
GAUGES = {family.name for family in FAMILIES if family.kind == "gauge"}


@contextmanager
def engine_process() -> Iterator[int]:
    """The fake engine in a process of its own; gives its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fake_engine"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.kill()


@dataclass
class Serving:
    """A running `serve` with its parent process, and clients for it."""

    process: subprocess.Popen[str]
    url: str
    log_path: Path

    def workers(self) -> list[int]:
        """Pids of the children, also of those that their parent left behind."""
        return [pid for pid, parent, _ in _processes() if parent == self.process.pid]

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="x", max_retries=0)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    async def all_are_up(self, count: int) -> None:
        async with asyncio.timeout(20):
            while True:
                try:
                    got = await scrape(self.url)
                except httpx.TransportError:  # it reached a worker that was being killed
                    got = {}
                if got.get(("llm_gateway_workers",)) == count:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(
    tmp_path: Path, count: int, *, drain_seconds: float = 30, **environment: str
) -> AsyncIterator[Serving]:
    with engine_process() as engine_port:
        config = tmp_path / "stack.yaml"
        replicas = [f"http://127.0.0.1:{engine_port}"]
        models = [{"id": "fake", "replicas": replicas, "slots": 64}]
        gateway = {"workers": count, "drain_seconds": drain_seconds}
        config.write_text(yaml.safe_dump({"gateway": gateway, "models": models}))
        port = int(environment.setdefault("PORT", str(free_port())))
        fds = [int(environment["LISTEN_FD"])] if "LISTEN_FD" in environment else []
        log_path = tmp_path / "log"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api_server", "serve"],
                cwd=REPOSITORY,
                env=os.environ
                | NEUTRAL
                | {"STACK_CONFIG": str(config), "HOST": "127.0.0.1", "LOG_LEVEL": "info"}
                | environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                pass_fds=fds,
            )
        running = Serving(process, f"http://127.0.0.1:{port}", log_path)
        try:
            await until_ready(process, running.url)
            await running.all_are_up(count)
            yield running
        finally:
            process.kill()
            process.wait()


def _processes() -> Iterator[tuple[int, int, str]]:
    """Pid, parent's pid and state of every process of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except OSError:
                continue
            yield int(entry.name), int(parent), state


def is_running(pid: int) -> bool:
    return any(pid == other and state != "Z" for other, _, state in _processes())


def open_sockets(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    return sum(str(fd.readlink()).startswith("socket:") for fd in folder.iterdir())


async def until(claim: Callable[[], bool], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.02)


async def sum_is(url: str, wanted: dict[tuple[str, ...], float]) -> None:
    """A request is counted just after its last byte; never more of them than there were."""
    async with asyncio.timeout(5):
        while True:
            got = await scrape(url)
            if all(got.get(key) == value for key, value in wanted.items()):
                return
            for key, value in wanted.items():
                assert got.get(key, 0) <= value
            await asyncio.sleep(0.02)


async def chats(url: str, connections: int, each: int) -> dict[tuple[str, ...], float]:
    """Send plain chats and streams over so many connections; what `/metrics` should make of it."""
    limits = httpx.Limits(max_connections=1)
    used = [0, 0]

    async def one_connection(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=20) as http:
            for turn in range(each):
                body = {
                    "model": "fake",
                    "messages": [{"role": "user", "content": "hi"}],
                    "tokens": 1 + (number + turn) % 7,
                    "stream": turn % 2 == 1,
                }
                if body["stream"]:
                    body["stream_options"] = {"include_usage": True}
                answer = await http.post(CHAT, json=body)
                assert answer.status_code == 200
                if body["stream"]:
                    lines = answer.text.splitlines()
                    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
                    usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
                else:
                    usage = answer.json()["usage"]
                used[0] += usage["prompt_tokens"]
                used[1] += usage["completion_tokens"]

    async with asyncio.TaskGroup() as tasks:
        for number in range(connections):
            tasks.create_task(one_connection(number))
    return {OK: connections * each, INPUT: used[0], OUTPUT: used[1]}


async def test_any_scrape_is_the_sum_over_all_workers(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as running:
        idle = {pid: open_sockets(pid) for pid in running.workers()}
        assert len(idle) == 3
        clients = [httpx.AsyncClient(base_url=running.url) for _ in range(40)]
        for client in clients:
            await client.get("/health/live")
        took = [pid for pid, before in idle.items() if open_sockets(pid) > before]
        assert len(took) >= 2, "several workers accept"
        wanted = await chats(running.url, connections=12, each=25)
        assert wanted[OUTPUT] > 600
        await sum_is(running.url, wanted)
        for client in clients:  # each of them has its own worker
            got = samples((await client.get("/metrics")).content)
            assert {key: got[key] for key in wanted} == wanted
            await client.aclose()


async def test_kill_9_of_a_worker_loses_no_count_and_it_is_back(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as running:
        wanted = await chats(running.url, connections=9, each=10)
        await sum_is(running.url, wanted)
        before = running.workers()
        for victim in before[:2]:
            os.kill(victim, signal.SIGKILL)
        await until(lambda: not any(is_running(pid) for pid in before[:2]), 5)
        await sum_is(running.url, wanted)
        await running.all_are_up(3)
        await sum_is(running.url, wanted)
        more = await chats(running.url, connections=9, each=10)
        await sum_is(running.url, {key: wanted[key] + more[key] for key in wanted})
        after = running.workers()
        assert len(after) == 3
        assert len(set(after) & set(before)) == 1
        said = [line for line in running.log() if line["logger"] == "api_server.workers"]
        assert [line["exit_code"] for line in said] == [-9, -9]


async def test_nothing_goes_backwards_while_workers_are_killed(tmp_path: Path) -> None:
    """With requests under way: what was answered stays counted, a gauge does not leak."""
    async with serving(tmp_path, 3) as running:
        answered = 0
        is_over = False

        async def talk() -> None:
            nonlocal answered
            async with running.client() as client:
                while not is_over:
                    try:
                        await collect(client, asyncio.Event(), tokens=2)
                        answered += 1
                    except openai.APIConnectionError:
                        await asyncio.sleep(0.01)
                    except httpx.TransportError:  # in the middle of a stream
                        await asyncio.sleep(0.01)

        talkers = [asyncio.create_task(talk()) for _ in range(6)]
        last: dict[tuple[str, ...], float] = {}
        for turn in range(40):
            if turn in (10, 20):
                os.kill(running.workers()[0], signal.SIGKILL)
            try:
                now = await scrape(running.url)
            except httpx.TransportError:
                continue
            for key, value in last.items():
                if key[0] not in GAUGES:
                    assert now[key] >= value, key
            last = now
            await asyncio.sleep(0.05)
        is_over = True
        await asyncio.gather(*talkers)
        await running.all_are_up(3)
        assert answered > 50
        got = await scrape(running.url)
        uncounted = 2 * len(talkers)  # at most one request a connection, at each of the kills
        assert answered - uncounted <= got[OK]
        assert got[OK] <= answered + uncounted


async def ten_streams(client: openai.AsyncOpenAI, tokens: int) -> "list[asyncio.Task[int]]":
    """Ten answers under way: each has brought its first token."""
    began = [asyncio.Event() for _ in range(10)]
    streams = [
        asyncio.create_task(collect(client, event, tokens=tokens, pause=0.02)) for event in began
    ]
    for event in began:
        await event.wait()
    return streams


@pytest.mark.parametrize("count", [1, 2])
async def test_sigterm_cuts_no_stream_and_takes_nothing_new(tmp_path: Path, count: int) -> None:
    async with serving(tmp_path, count) as running:
        async with running.client() as client:
            streams = await ten_streams(client, tokens=60)
            running.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert not any(stream.done() for stream in streams)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{running.url}/health")
            assert await asyncio.gather(*streams) == [61] * 10
        assert await exit_code(running.process, 5) == 0
        assert running.workers() == []


async def test_ctrl_c_in_a_terminal_counts_once(tmp_path: Path) -> None:
    """The terminal signals every process of its group; as two signals it would cut streams."""
    async with serving(tmp_path, 2) as running:
        async with running.client() as client:
            began = asyncio.Event()
            stream = asyncio.create_task(collect(client, began, tokens=50, pause=0.02))
            await began.wait()
            os.killpg(running.process.pid, signal.SIGINT)
            assert await stream == 51
        assert await exit_code(running.process, 5) == 0


async def test_second_sigterm_hurries_every_worker(tmp_path: Path) -> None:
    async with serving(tmp_path, 2) as running:
        async with running.client() as client:
            streams = await ten_streams(client, tokens=5000)
            running.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.4)
            assert not any(stream.done() for stream in streams)
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                ends = await asyncio.gather(*streams, return_exceptions=True)
        assert [getattr(end, "code", None) for end in ends] == ["shutting_down"] * 10
        assert await exit_code(running.process, 5) == 0


async def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    async with serving(tmp_path, 2, drain_seconds=0.5) as running:
        stuck = running.workers()[0]
        os.kill(stuck, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        assert await exit_code(running.process, 0.5 + STOP_MARGIN_SECONDS + 2) == 0
        assert not is_running(stuck)


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path, 2) as running:
        before = running.workers()
        os.kill(before[0], signal.SIGSTOP)
        await until(lambda: len(set(running.workers()) - set(before)) == 1, SILENT_LOOKS + 8)
        assert not is_running(before[0])
        assert before[1] in running.workers()
        await running.all_are_up(2)


async def test_a_worker_told_to_end_finishes_its_stream_and_is_replaced(tmp_path: Path) -> None:
    """An operator's way to renew workers one by one."""
    async with serving(tmp_path, 2) as running:
        before = running.workers()
        async with running.client() as client:
            began = asyncio.Event()
            stream = asyncio.create_task(collect(client, began, tokens=50, pause=0.02))
            await began.wait()
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            assert await stream == 51
        await running.all_are_up(2)
        await until(lambda: not set(running.workers()) & set(before), 5)


async def test_kill_9_of_the_parent_leaves_no_worker(tmp_path: Path) -> None:
    async with serving(tmp_path, 2) as running:
        workers = running.workers()
        assert len(workers) == 2
        running.process.kill()
        running.process.wait()
        await until(lambda: not any(is_running(pid) for pid in workers), 5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/health/live")


async def test_workers_serve_on_a_socket_that_was_handed_down(tmp_path: Path) -> None:
    port = free_port()
    with listen("127.0.0.1", port) as listener:
        fd = str(listener.fileno())
        async with serving(tmp_path, 2, PORT=str(port), LISTEN_FD=fd) as running:
            wanted = await chats(running.url, connections=4, each=4)
            await sum_is(running.url, wanted)
            running.process.send_signal(signal.SIGTERM)
            assert await exit_code(running.process, 5) == 0


async def test_one_worker_has_no_parent(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as running:
        assert running.workers() == []
        wanted = await chats(running.url, connections=3, each=4)
        await sum_is(running.url, wanted)


async def test_a_revoked_key_is_out_in_every_worker_within_three_seconds(
    tmp_path: Path, postgres_url: str
) -> None:
    folder = str(tmp_path / "data")
    async with serving(
        tmp_path, 2, AUTH="on", POSTGRES_URL=postgres_url, DATA_DIR=folder
    ) as running:
        issued = await make_app(postgres_url)

        async def statuses() -> set[int]:
            """Of new connections, which both workers take."""
            found = set()
            for _ in range(24):
                async with httpx.AsyncClient(base_url=running.url) as http:
                    headers = {"authorization": f"Bearer {issued.key}"}
                    found.add((await http.get("/v1/models", headers=headers)).status_code)
            return found

        async with asyncio.timeout(4):
            while await statuses() != {200}:
                await asyncio.sleep(0.05)
        async with managed_apps(postgres_url) as apps:
            await apps.revoke("shop")
        async with asyncio.timeout(4):
            while await statuses() != {401}:
                await asyncio.sleep(0.05)
        snapshot = tmp_path / "data" / "apps.snapshot"
        assert snapshot.exists()
        assert issued.key is not None
        assert issued.key.encode() not in snapshot.read_bytes()
        assert issued.key not in running.log_path.read_text()
