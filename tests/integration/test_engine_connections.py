"""A connection to an engine: when it serves again, when it is dropped, what it bounds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from api_server.errors import ApiError, InferenceError, NoAnswerError
from api_server.inference.catalogue import Model, Timeouts
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers import engine_client
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.handlers.http1 import Connection, Origin, Pool

BODY, OTHER_BODY = b'{"data":[]}', b'{"data":[1]'
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n" + BODY
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b'24\r\ndata: {"choices":[]}\n\ndata: [DONE]\n\n\r\n'
LAST_CHUNK = b"0\r\n\r\n"

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Engine:
    """Answers the n-th request, on whatever connection, as the test says."""

    answer: Answer
    port: int = 0
    connections: int = 0
    requests: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n{}")
                self.requests += 1
                await self.answer(self.requests, writer)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def engine_that(answer: Answer) -> AsyncIterator[tuple[Engine, EngineClient]]:
    engine = Engine(answer)
    server = await asyncio.start_server(engine.handle, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{engine.port}"
    timeouts = Timeouts(first_token_seconds=1, idle_seconds=1, total_seconds=3)
    handler = EngineClient(Model(id="m", engine=LLAMA_SERVER, replicas=(url,), timeouts=timeouts))
    try:
        yield engine, handler
    finally:
        await handler.aclose()
        server.close()


async def ask(handler: EngineClient) -> bytes:
    async with asyncio.timeout(5):
        return await handler.ask("/v1/embeddings", b"{}", "id")


async def drain(handler: EngineClient) -> None:
    async with asyncio.timeout(5):
        stream = await handler.open_stream("/v1/chat/completions", b"{}", "id")
        try:
            while await stream.next_block():
                pass
        finally:
            stream.close()


async def test_a_stream_whose_http_ends_after_its_events_keeps_its_connection() -> None:
    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + DONE)
        await asyncio.sleep(0.01)
        writer.write(LAST_CHUNK)

    async with engine_that(answer) as (engine, handler):
        await drain(handler)
        await drain(handler)
        assert (engine.requests, engine.connections) == (2, 1)


async def test_a_kept_connection_that_breaks_in_an_answer_is_not_asked_again() -> None:
    """Nothing at all came: it was closed while idle. Something came: the engine has seen it."""

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN if number == 1 else PLAIN[:12])
        if number > 1:
            writer.close()

    async with engine_that(answer) as (engine, handler):
        assert await ask(handler) == BODY
        with pytest.raises(NoAnswerError):
            await ask(handler)
        assert engine.requests == 2


async def test_a_connection_on_which_the_engine_speaks_out_of_turn_is_dropped() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN)
        await writer.drain()
        await asyncio.sleep(0.01)
        if number == 1:
            writer.write(PLAIN.replace(BODY, OTHER_BODY))

    async with engine_that(answer) as (engine, handler):
        assert await ask(handler) == BODY
        await asyncio.sleep(0.05)
        assert await ask(handler) == BODY, "what was said unasked is nobody's answer"
        assert engine.connections == 2


async def test_a_second_answer_in_the_same_breath_is_nobodys() -> None:
    async def answer(_number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN + PLAIN.replace(BODY, OTHER_BODY))

    async with engine_that(answer) as (engine, handler):
        assert await ask(handler) == BODY
        assert await ask(handler) == BODY
        assert engine.connections == 2


async def endless(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Until the gateway has had enough."""
    while True:
        writer.write(line)
        await writer.drain()


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 4000 + b"\r\n"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 9999999999\r\n\r\n", b"y" * 4096),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n", b"y" * 4096),
    ],
    ids=["headers", "an error", "an answer"],
)
async def test_what_has_no_end_is_bounded(
    head: bytes, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "MAX_BODY_BYTES", 1024 * 1024)

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await endless(writer, line)

    async with engine_that(answer) as (_, handler):
        started = asyncio.get_running_loop().time()
        with pytest.raises(ApiError) as caught:
            await ask(handler)
        assert isinstance(caught.value, InferenceError)
        assert asyncio.get_running_loop().time() - started < 2, "the bound on time is 3 s"


async def used(pool: Pool) -> Connection:
    connection, _ = await pool.acquire(fresh=True)
    connection.send(b"POST / HTTP/1.1\r\n\r\n{}")
    await connection.headers(1)
    while await connection.read(1):
        pass
    return connection


async def plain(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(PLAIN)


async def test_idle_connections_are_few_and_not_old() -> None:
    async with engine_that(plain) as (engine, _):
        origin = Origin.parse(f"http://127.0.0.1:{engine.port}")
        pool = Pool(origin, connect_timeout_seconds=1, max_idle=1, idle_seconds=0.1)
        first, second = await used(pool), await used(pool)
        pool.release(first)
        pool.release(second)
        assert (first.is_open, second.is_open) == (True, False)
        assert await pool.acquire() == (first, True)
        pool.release(first)
        await asyncio.sleep(0.12)
        third, was_used = await pool.acquire()
        assert not was_used
        assert not first.is_open
        third.abort()
        pool.close()


async def test_what_nobody_reads_stays_at_the_engine_until_somebody_does() -> None:
    size, written = 32 * 1024 * 1024, asyncio.Event()

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
        written.set()

    async with engine_that(answer) as (engine, _):
        origin = Origin.parse(f"http://127.0.0.1:{engine.port}")
        pool = Pool(origin, connect_timeout_seconds=1)
        connection, _ = await pool.acquire()
        connection.send(b"POST / HTTP/1.1\r\n\r\n{}")
        await connection.headers(1)
        await asyncio.sleep(0.2)
        assert not written.is_set()
        received = 0
        while data := await connection.read(1):
            received += len(data)
        assert received == size
        pool.release(connection)
        pool.close()
