"""`WS /ws/requests/{id}`: each change to the end, with the official `websockets` client."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fake_engine import FakeEngine, running_engine
from tests.integration.conftest import raw_connection, running_gateway


@dataclass
class Served:
    engine: FakeEngine
    http: httpx.AsyncClient
    url: str

    async def send(self) -> str:
        body = {"app_code": "x", "request_type": "t", "request": "hi"}
        id_: str = (await self.http.post("/ai_request", json=body)).json()["request_id"]
        return id_

    def watch(self, id_: str) -> connect:
        return connect(f"{self.url.replace('http', 'ws')}/ws/requests/{id_}", proxy=None)


@pytest.fixture
async def served(tmp_path: Path, postgres_url: str) -> AsyncIterator[Served]:
    variables = {"POSTGRES_URL": postgres_url, "AUTH": "off", "ENVIRONMENT": "development"}
    jobs = {"workers": 1, "most_sockets": 3}
    async with (
        running_engine() as engine,
        running_gateway(tmp_path, engine, variables=variables, jobs=jobs) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=10) as http,
    ):
        yield Served(engine, http, url)


async def all_said(socket: ClientConnection) -> list[dict[str, Any]]:
    said = []
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                said.append(json.loads(await socket.recv()))
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1000
    return said


async def test_it_tells_each_change_and_ends_with_the_result(served: Served) -> None:
    served.engine.obey(first_pause=0.4)
    ids = [await served.send() for _ in range(4)]
    async with served.watch(ids[-1]) as socket:
        said = await all_said(socket)
    positions = [each["position"] for each in said if each["status"] == "queued"]
    assert len(positions) > 1
    assert positions == sorted(set(positions), reverse=True)
    assert said[-1] == (await served.http.get(f"/get_request/{ids[-1]}")).json()
    assert said[-1]["status"] == "completed"
    order = ["queued", "processing", "completed"]
    assert [order.index(each["status"]) for each in said] == sorted(
        order.index(each["status"]) for each in said
    )


async def test_one_that_has_ended_says_so_at_once(served: Served) -> None:
    id_ = await served.send()
    async with served.watch(id_) as socket:
        await all_said(socket)
    async with served.watch(id_) as socket:
        assert [each["status"] for each in await all_said(socket)] == ["completed"]


async def test_a_cancelled_one_ends(served: Served) -> None:
    served.engine.obey(first_pause=5)
    id_ = await served.send()
    async with served.watch(id_) as socket:
        await socket.recv()
        await served.http.post(f"/get_request/{id_}/cancel")
        assert (await all_said(socket))[-1]["error_code"] == "CANCELLED"


async def test_an_unknown_one_is_404_before_the_handshake(served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with served.watch("job_nobody"):
            pass
    assert caught.value.response.status_code == 404
    body = caught.value.response.body
    assert body is not None
    assert json.loads(body)["error_code"] == "REQUEST_NOT_FOUND"


async def test_sockets_are_bounded_and_their_places_come_back(served: Served) -> None:
    served.engine.obey(first_pause=5)
    id_ = await served.send()
    async with served.watch(id_), served.watch(id_), served.watch(id_):
        with pytest.raises(InvalidStatus) as caught:
            async with served.watch(id_):
                pass
        assert caught.value.response.status_code == 429
    async with asyncio.timeout(5):
        while True:
            try:
                async with served.watch(id_) as socket:
                    await socket.recv()
                    return
            except InvalidStatus:
                await asyncio.sleep(0.05)


async def test_what_a_client_says_is_bounded(served: Served) -> None:
    served.engine.obey(first_pause=5)
    async with served.watch(await served.send()) as socket:
        await socket.send("hello")
        await socket.send("x" * 100_000)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await socket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


async def test_other_paths_keep_to_http(served: Served) -> None:
    head = "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    head += "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with raw_connection(served.url) as (reader, writer):
        writer.write(head.encode())
        assert (await reader.readline()).split()[1] == b"200"
    with pytest.raises(InvalidStatus):
        async with connect(f"{served.url.replace('http', 'ws')}/ws/nothing", proxy=None):
            pass
