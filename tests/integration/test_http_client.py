"""The client of stores that speak HTTP, against servers that keep, close and break connections."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api_server.stores.http_client import ConnectionBrokenError, HttpClient

KEPT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
CLOSED = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"


class Server:
    """Answers each request of a connection with the next of `answers`; empty: it hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self.connections = 0
        self._answers = iter(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answer = next(self._answers)
                writer.write(answer)
                if answer in (b"", HALF):
                    break
        writer.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[HttpClient]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        client = HttpClient(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", {})
        try:
            yield client
        finally:
            client.forget_idle()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("answer", "connections"), [(KEPT, 1), (CLOSED, 3)])
async def test_a_connection_is_kept_unless_the_server_closes_it(
    answer: bytes, connections: int
) -> None:
    server = Server(*[answer] * 3)
    async with serving(server) as client:
        for _ in range(3):
            assert (await client.ask("GET", "/")).body == b"{}"
    assert server.connections == connections


async def test_a_kept_connection_that_was_closed_is_no_error() -> None:
    server = Server(KEPT, b"", KEPT)
    async with serving(server) as client:
        for _ in range(2):
            assert (await client.ask("GET", "/")).status == 200
    assert server.connections == 2


async def test_half_an_answer_is_an_error_and_its_connection_is_gone() -> None:
    server = Server(HALF, KEPT)
    async with serving(server) as client:
        with pytest.raises(ConnectionBrokenError):
            await client.ask("GET", "/")
        assert (await client.ask("GET", "/")).status == 200
    assert server.connections == 2
