"""The fake engine as a program: what it plays, what it counts, that it needs nothing."""

import asyncio
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fake_engine
from tests.replicas import Replica, running_replicas, until
from tests.samples import samples

CHAT = "/v1/chat/completions"
NEVER_COMPLETE = {"tokens": 10_000, "pause": 0.05}


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    async with running_replicas(1, slots=2) as (replica,):
        yield replica


@pytest.fixture
async def http(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=replica.url, timeout=5) as http:
        yield http


async def chat(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    headers = {"x-request-id": fields.pop("id", "some-id")}
    return await http.post(CHAT, json={"model": "m", "stream": True} | fields, headers=headers)


async def test_needs_nothing_but_python_and_ends_at_once(tmp_path: Path) -> None:
    """As in its container: the folder alone, the standard library alone, nothing written."""
    assert fake_engine.__file__ is not None
    source = Path(fake_engine.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    folder = shutil.copytree(source, tmp_path / "fake_engine", ignore=ignored)
    files = sorted(folder.rglob("*"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-E", "-S", "-s", "-B", "-m", "fake_engine"),
        cwd=tmp_path,
        env={"PATH": os.defpath},
        stdout=PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(10):
            line = (await process.stdout.readline()).decode()
        async with httpx.AsyncClient(base_url=f"http://{line.split()[-1]}", timeout=5) as http:
            assert (await http.get("/health")).json() == {"status": "ok"}
            hanging = asyncio.create_task(chat(http, fault="hang_before_headers"))
            await until(lambda: is_running(http, 1), 5, "a request hangs")
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await process.wait() == 0
            assert time.monotonic() - started < 1
            assert isinstance((await asyncio.gather(hanging, return_exceptions=True))[0], Exception)
        assert sorted(folder.rglob("*")) == files
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def is_running(http: httpx.AsyncClient, count: int) -> bool:
    running: int = (await http.get("/counts")).json()["running"]
    return running == count


async def test_every_request_ends_in_one_count(replica: Replica, http: httpx.AsyncClient) -> None:
    await chat(http, id="twice")
    await chat(http, id="twice", stream=False)
    await http.post("/v1/completions", json={"model": "m", "prompt": "hi"})
    await http.post("/v1/embeddings", json={"model": "m", "input": ["a", "b"]})
    assert (await chat(http, fault="error_500")).status_code == 500
    leaving = asyncio.create_task(chat(http, **NEVER_COMPLETE))
    await until(lambda: is_running(http, 1), 5, "it runs")
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until(lambda: is_running(http, 0), 1, "it was dropped")
    counts = await replica.counts()
    assert (counts.finished, counts.faulted, counts.cancelled, counts.queued) == (4, 1, 1, 0)
    assert counts.asked == 6
    assert counts.request_ids["twice"] == 2
    got = samples((await http.get("/metrics")).content)
    assert got["fake_engine:requests_total",] == 6
    assert got["llamacpp:prompt_tokens_total",] == 12
    assert got["llamacpp:tokens_predicted_total",] >= 15
    assert got["llamacpp:requests_processing",] == 0


async def test_texts_and_chats_come_in_their_own_shapes(http: httpx.AsyncClient) -> None:
    text = {"model": "m", "prompt": "hi", "tokens": 2, "stream": True}
    streamed = (await http.post("/v1/completions", json=text)).text
    assert streamed.count('"text":"x"') == 2
    assert streamed.endswith("data: [DONE]\n\n")
    whole = (await http.post("/v1/completions", json=text | {"stream": False})).json()
    assert whole["choices"][0]["text"] == "xx"
    assert (await chat(http, tokens=2)).text.count('"delta":{"content":"x"}') == 2


async def test_tells_of_itself_as_llama_server_does(http: httpx.AsyncClient) -> None:
    assert (await http.get("/props")).json()["total_slots"] == 2
    assert [slot["is_processing"] for slot in (await http.get("/slots")).json()] == [False, False]
    assert (await http.get("/v1/models")).json()["data"][0]["id"] == "fake"
    assert (await http.get("/nothing")).status_code == 404


async def test_more_requests_than_slots_wait(replica: Replica, http: httpx.AsyncClient) -> None:
    tasks = [asyncio.create_task(chat(http, tokens=10, pause=0.03)) for _ in range(3)]

    async def one_waits() -> bool:
        counts = await replica.counts()
        return (counts.running, counts.queued) == (2, 1)

    await until(one_waits, 5, "two run, one waits")
    assert all(slot["is_processing"] for slot in (await http.get("/slots")).json())
    for answer in await asyncio.gather(*tasks):
        assert answer.text.endswith("data: [DONE]\n\n")
    assert (await replica.counts()).finished == 3


async def test_an_order_holds_for_as_many_requests_as_it_says(
    replica: Replica, http: httpx.AsyncClient
) -> None:
    await replica.order(fault="error_429", retry_after=9, for_requests=2)
    own = await chat(http, fault="loading_503")
    answers = [await chat(http) for _ in range(3)]
    assert (own.status_code, [answer.status_code for answer in answers]) == (503, [429, 429, 200])
    assert answers[0].headers["retry-after"] == "9"
    await replica.order(fault="error_500")
    assert [(await chat(http)).status_code for _ in range(3)] == [500] * 3
    await replica.order()
    assert (await chat(http)).status_code == 200


async def test_an_order_that_cannot_be_is_refused_by_name(http: httpx.AsyncClient) -> None:
    for told in ({"fault": "nothing_such"}, {"health": "nothing_such"}, {"nothing_such": 1}):
        answer = await http.post("/fault", json=told)
        assert answer.status_code == 400
        assert "nothing_such" in answer.json()["error"]["message"]
    assert (await chat(http, fault="nothing_such")).status_code == 400


async def test_can_be_slow(replica: Replica, http: httpx.AsyncClient) -> None:
    await replica.order(first_pause=0.2, pause=0.05)
    for stream in (True, False):
        started = time.monotonic()
        assert (await chat(http, stream=stream, tokens=4)).status_code == 200
        assert 0.4 <= time.monotonic() - started < 2


async def test_refuses_and_listens_again(replica: Replica, http: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=replica.url) as kept:
        await kept.get("/health")
        await replica.order(fault="refuse", seconds=0.4)
        with pytest.raises(httpx.TransportError):
            await kept.get("/health")
        with pytest.raises(httpx.ConnectError):
            await http.get("/health")

    async def listens() -> bool:
        try:
            return (await http.get("/health")).status_code == 200
        except httpx.ConnectError:
            return False

    await until(listens, 5, "it listens again")
    assert (await chat(http)).status_code == 200


async def test_health_can_fail_and_hang_by_itself(
    replica: Replica, http: httpx.AsyncClient
) -> None:
    await replica.order(health="fails")
    assert (await http.get("/health")).status_code == 503
    assert (await chat(http)).status_code == 200
    await replica.order(health="hangs")
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/health", timeout=0.3)
    assert (await chat(http)).status_code == 200
    await replica.order()
    assert (await http.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "ends_with"),
    [
        ("reset", ConnectionResetError),
        ("reset_in_stream", ConnectionResetError),
        ("close_before_headers", None),
        ("close_in_stream", None),
    ],
)
async def test_a_reset_is_a_reset_and_a_close_a_close(
    replica: Replica, fault: str, ends_with: type[Exception] | None
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    body = f'{{"model":"m","stream":true,"fault":"{fault}"}}'.encode()
    head = f"POST {CHAT} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    got = b""
    try:
        async with asyncio.timeout(5):
            while data := await reader.read(65536):
                got += data
        ended_with = None
    except ConnectionResetError as exc:
        ended_with = type(exc)
    finally:
        writer.close()
    assert ended_with is ends_with
    assert got.count(b"data: ") == (2 if "stream" in fault else 0)


async def test_a_killed_replica_comes_back_on_its_port(
    replica: Replica, http: httpx.AsyncClient
) -> None:
    port = replica.port
    await replica.kill()
    with pytest.raises(httpx.ConnectError):
        await http.get("/health")
    await replica.restart()
    assert replica.port == port
    replica.pause()
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/health", timeout=0.2)
    replica.resume()
    assert (await chat(http)).status_code == 200
