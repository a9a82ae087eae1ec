"""HTTP/1.1 as an engine speaks it: reads requests from a socket, writes answers and faults."""

import asyncio
import json
import socket
import struct
from dataclasses import dataclass

STREAM_HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n{}\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request; `headers` by their names in lower case, `head` as it came."""

    method: str
    path: str
    headers: dict[str, str]
    head: str
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request of a connection. Raises what asyncio raises when none comes."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path.split("?", 1)[0], headers, head, body)


def answer(
    writer: asyncio.StreamWriter, status: int, content: object, more_headers: str = ""
) -> None:
    """A whole answer: JSON, or text where the content is one in bytes."""
    is_text = isinstance(content, bytes)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    kind = "text/plain; version=0.0.4" if is_text else "application/json"
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more_headers}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def event(writer: asyncio.StreamWriter, data: str) -> None:
    """One event of a stream."""
    chunk(writer, f"data: {data}\n\n".encode())


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A piece of a body of unknown length."""
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST; closing alone would end it in good order."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
