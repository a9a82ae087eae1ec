"""The shipped front as a process, before gateways and engines that are processes too."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.asyncio.client import connect

from api_server.local.process import free_port
from tests.front import HAPROXY, RunningFront, running_front
from tests.integration.conftest import raw_connection
from tests.outcome import Outcome, ask
from tests.real_metrics import OF_HAPROXY
from tests.replicas import Replica, RunningGateway, running_gateway, running_replicas, until
from tests.samples import samples

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

GATEWAYS = 3
NOTICE_SECONDS = 3
"""As in docker-compose.yaml."""


ACTIVE = "haproxy_backend_active_servers"


@dataclass
class Fleet:
    """Gateways of one engine, each of which keeps its port, behind a front."""

    folder: Path
    engine: Replica
    front: RunningFront
    ports: list[int]
    gateways: list[RunningGateway] = field(default_factory=list)
    _stacks: list[contextlib.AsyncExitStack] = field(default_factory=list)

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.front.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=60,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        )

    async def start(self, number: int, **variables: str) -> None:
        folder = self.folder / f"gateway{number}"
        folder.mkdir(exist_ok=True)
        stack = contextlib.AsyncExitStack()
        gateway = await stack.enter_async_context(
            running_gateway(
                folder, {"m": [self.engine]}, port=self.ports[number], variables=variables
            )
        )
        self.gateways[number:] = [gateway, *self.gateways[number + 1 :]]
        self._stacks[number:] = [stack, *self._stacks[number + 1 :]]

    async def start_all(self, **variables: str) -> None:
        for number in range(len(self.ports)):
            await self.start(number, **variables)
        await until(self.takes_all, 10, "the front knows every gateway")

    async def replace(self, number: int, **variables: str) -> None:
        """As Compose does: SIGTERM, wait for the end, start another one in its place."""
        process = self.gateways[number].process
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        await self._stacks[number].aclose()
        await self.start(number, **variables)
        await until(self.takes_all, 10, "the front takes the new one")

    async def takes_all(self) -> bool:
        async with httpx.AsyncClient(timeout=5) as http:
            text = (await http.get(f"{self.front.metrics_url}/metrics")).raise_for_status().text
        up = [line for line in text.splitlines() if line.startswith("haproxy_server_check_status")]
        passed = [line for line in up if 'state="L7OK"' in line and line.endswith(" 1")]
        return len(passed) == len(self.ports)

    async def close(self) -> None:
        for stack in self._stacks:
            await stack.aclose()


@asynccontextmanager
async def running_fleet(folder: Path, count: int = GATEWAYS) -> AsyncIterator[Fleet]:
    ports = [free_port() for _ in range(count)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with running_replicas(1) as [engine], running_front(folder, addresses) as front:
        fleet = Fleet(folder, engine, front, ports)
        try:
            yield fleet
        finally:
            await fleet.close()


async def in_flight(gateway: RunningGateway) -> float:
    return sum((await gateway.in_flight()).values())


async def test_the_front_tells_how_many_gateways_it_has(tmp_path: Path) -> None:
    """What the alert FrontWithoutGateway asks."""

    async def told() -> float:
        async with httpx.AsyncClient(timeout=5) as http:
            text = (await http.get(f"{fleet.front.metrics_url}/metrics")).raise_for_status().content
        got = samples(text)
        backend = {key[0]: value for key, value in got.items() if "gateways" in key[1:]}
        assert backend.keys() >= OF_HAPROXY
        return backend[ACTIVE]

    async with running_fleet(tmp_path, 1) as fleet:
        async with asyncio.timeout(10):
            while await told() != 0:
                await asyncio.sleep(0.1)
        await fleet.start_all()
        assert await told() == 1


async def test_gateways_are_replaced_under_live_streams_and_no_request_fails(
    tmp_path: Path,
) -> None:
    notice = {"DRAIN_NOTICE_SECONDS": str(NOTICE_SECONDS)}
    outcomes: list[Outcome] = []
    is_over = asyncio.Event()

    async def stream_on(client: openai.AsyncOpenAI) -> None:
        while not is_over.is_set():
            outcomes.append(await ask(client, "m", stream=True, tokens=40, pause=0.1))

    async def ask_on() -> None:
        while not is_over.is_set():
            async with fleet.client() as client:  # new connections, then the same one again
                for _ in range(20):
                    outcome = await ask(client, "m", stream=False, tokens=1, pause=0)
                    outcomes.append(outcome)

    async with running_fleet(tmp_path) as fleet, fleet.client() as client:
        await fleet.start_all(**notice)
        tasks = [asyncio.create_task(stream_on(client)) for _ in range(100)]
        tasks += [asyncio.create_task(ask_on()) for _ in range(2)]
        await asyncio.sleep(1)
        for number in range(GATEWAYS):
            assert await in_flight(fleet.gateways[number]) > 10
            await fleet.replace(number, **notice)
        is_over.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)
    assert [outcome for outcome in outcomes if not outcome.is_complete] == []
    assert len(outcomes) > 500


async def test_a_gateway_that_is_killed_takes_its_own_streams_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with running_fleet(tmp_path) as fleet, fleet.client() as client:
        await fleet.start_all()
        streams = [
            asyncio.create_task(ask(client, "m", stream=True, tokens=40, pause=0.05))
            for _ in range(30)
        ]
        await asyncio.sleep(1)
        held = await in_flight(fleet.gateways[0])
        fleet.gateways[0].process.kill()
        await fleet.gateways[0].process.wait()
        after = [await ask(client, "m", stream=False, tokens=1, pause=0) for _ in range(20)]
        outcomes = await asyncio.gather(*streams)
    assert all(outcome.is_complete for outcome in after)
    assert max(outcome.seconds for outcome in after) < 1
    assert 0 < held < 30
    assert sum(not outcome.is_complete for outcome in outcomes) == held


async def test_without_a_gateway_clients_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with running_fleet(tmp_path) as fleet, fleet.client() as client:
        await until(lambda: _is_away(fleet.front), 10, "the front knows that nobody is there")
        with pytest.raises(openai.InternalServerError) as caught:
            await client.models.list()
        assert caught.value.status_code == 503
        assert caught.value.code == "gateway_unavailable"
        assert caught.value.response.headers["retry-after"] == "1"
        await fleet.start_all()
        assert (await ask(client, "m", stream=True)).is_complete


async def _is_away(front: RunningFront) -> bool:
    async with httpx.AsyncClient(timeout=15) as http:
        return (await http.get(f"{front.url}/v1/models")).status_code == 503


@pytest.mark.alone
@pytest.mark.parametrize("first_pause", [0, 30], ids=["in the stream", "before the first token"])
async def test_a_client_that_leaves_frees_its_place_in_the_engine(
    tmp_path: Path, first_pause: float
) -> None:
    waits = []
    async with running_fleet(tmp_path, 1) as fleet:
        await fleet.start_all()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        raw = json.dumps(body | {"tokens": 2000, "pause": 0.02, "first_pause": first_pause})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n"
        head += "content-type: application/json\r\n\r\n"
        for _ in range(20):

            async def runs(count: int) -> bool:
                return (await fleet.engine.counts()).running == count

            async with raw_connection(fleet.front.url) as (reader, writer):
                writer.write((head + raw).encode())
                if not first_pause:
                    await asyncio.wait_for(reader.readuntil(b"data: "), 5)
                await until(lambda: runs(1), 5, "the engine works")
            left = time.monotonic()
            await until(lambda: runs(0), 5, "the engine is free again")
            waits.append(time.monotonic() - left)
        assert (await fleet.engine.counts()).cancelled == 20
    assert sorted(waits)[-2] < 0.25, waits


async def test_a_body_that_is_too_large_is_refused_by_the_gateway(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, 1) as fleet, fleet.client() as client:
        await fleet.start_all()
        with pytest.raises(openai.APIStatusError) as caught:
            await client.completions.create(model="m", prompt="x" * 11_000_000)
        assert caught.value.status_code == 413
        assert caught.value.code == "request_too_large"


async def test_a_job_is_watched_through_it(tmp_path: Path, postgres_url: str) -> None:
    async with running_fleet(tmp_path, 1) as fleet:
        await fleet.start_all(POSTGRES_URL=postgres_url)
        async with httpx.AsyncClient(base_url=fleet.front.url, timeout=10) as http:
            body = {"app_code": "x", "request_type": "t", "request": "hi"}
            id_ = (await http.post("/ai_request", json=body)).raise_for_status().json()
        url = f"{fleet.front.url.replace('http', 'ws')}/ws/requests/{id_['request_id']}"
        async with asyncio.timeout(10), connect(url, proxy=None) as socket:
            said = [json.loads(message) async for message in socket]
    assert said[-1]["status"] == "completed"


@dataclass
class Scripted:
    """What stands in for a gateway: open, and answers the rest as told, or never."""

    port: int
    answer: bytes | None
    heads: list[str] = field(default_factory=list)


@asynccontextmanager
async def scripted_gateway(answer: bytes | None) -> AsyncIterator[Scripted]:
    handlers: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("GET /health/open "):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                gateway.heads.append(head.lower())
                if gateway.answer is None:
                    await reader.read()
                else:
                    writer.write(gateway.answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gateway = Scripted(server.sockets[0].getsockname()[1], answer)
    async with server:
        yield gateway
        async with asyncio.timeout(5):
            await asyncio.gather(*(handler for handler in handlers if handler is not None))


OK = b"HTTP/1.1 200 OK\r\nx-request-id: made-there\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_gateway_learns_the_true_address_and_the_request_id(tmp_path: Path) -> None:
    told = {
        "x-forwarded-for": "6.6.6.6",
        "x-forwarded-proto": "https",
        "x-real-ip": "6.6.6.6",
        "forwarded": "for=6.6.6.6",
        "x-request-id": "mine",
    }
    async with (
        scripted_gateway(OK) as gateway,
        running_front(tmp_path, [f"127.0.0.1:{gateway.port}"]) as front,
        httpx.AsyncClient(timeout=5) as http,
    ):
        answer = await http.get(f"{front.url}/v1/models", headers=told)
    assert answer.headers["x-request-id"] == "made-there"
    [head] = gateway.heads
    assert "6.6.6.6" not in head
    assert "\r\nx-forwarded-for: 127.0.0.1\r\n" in head
    assert "\r\nx-forwarded-proto: http\r\n" in head
    assert "\r\nx-request-id: mine\r\n" in head


async def test_what_a_gateway_has_seen_is_never_sent_twice(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(scripted_gateway(b"")) for _ in range(2)]
        addresses = [f"127.0.0.1:{gateway.port}" for gateway in gateways]
        front = await stack.enter_async_context(running_front(tmp_path, addresses))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5))
        headers = {"x-request-id": 'a"b'}
        answer = await http.post(f"{front.url}/v1/chat/completions", json={}, headers=headers)
        assert sum(len(gateway.heads) for gateway in gateways) == 1
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "gateway_failed"
        assert answer.headers["retry-after"] == "1"
        [line] = [line for line in front.log().splitlines() if line.startswith("{")]
    said: dict[str, Any] = json.loads(line)
    assert (said["status"], said["request_id"]) == (502, 'a"b')
    assert said["path"] == "/v1/chat/completions"


async def test_a_body_that_is_no_body_gets_the_envelope(tmp_path: Path) -> None:
    async with (
        scripted_gateway(None) as gateway,
        running_front(tmp_path, [f"127.0.0.1:{gateway.port}"]) as front,
        raw_connection(front.url) as (reader, writer),
    ):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"a\r\nno size\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("line", ["TRACE /v1/models", "CONNECT inside:5432"])
async def test_methods_that_no_client_needs_reach_no_gateway(tmp_path: Path, line: str) -> None:
    async with (
        scripted_gateway(None) as gateway,
        running_front(tmp_path, [f"127.0.0.1:{gateway.port}"]) as front,
        raw_connection(front.url) as (reader, writer),
    ):
        writer.write(f"{line} HTTP/1.1\r\nhost: inside:5432\r\nconnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        assert gateway.heads == []
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


async def test_it_ends_when_the_last_answer_has_passed(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, 1) as fleet, fleet.client() as client:
        await fleet.start_all()
        stream = asyncio.create_task(ask(client, "m", stream=True, tokens=40, pause=0.05))
        await asyncio.sleep(0.5)
        fleet.front.stop()
        await asyncio.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{fleet.front.url}/health")
        assert (await stream).is_complete
        await client.close()  # it would keep its connection, and the front with it
        async with asyncio.timeout(5):
            assert await fleet.front.process.wait() == 0


async def test_a_new_configuration_cuts_no_answer(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, 1) as fleet, fleet.client() as client:
        await fleet.start_all()
        stream = asyncio.create_task(ask(client, "m", stream=True, tokens=40, pause=0.05))
        await asyncio.sleep(0.5)
        fleet.front.reload()
        await until(lambda: _has_read_anew(fleet.front), 5, "it has read its configuration anew")
        assert not stream.done()
        async with fleet.client() as newcomer:
            assert (await ask(newcomer, "m", stream=True)).is_complete
        assert (await stream).is_complete


async def _has_read_anew(front: RunningFront) -> bool:
    return front.log().count("Loading success") == 2
