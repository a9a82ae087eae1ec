"""An engine that misbehaves on demand: speaks llama-server's HTTP and plays the fault it is told.

The request's field `fault` chooses what happens (see `FAULTS`), `tokens` how many events a healthy
answer has, `pause` the seconds between them. `python -m tests.fake_engine PORT` runs it alone.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

FAULTS = (
    "hang_before_headers",
    "hang_after_headers",
    "half_event_then_stall",
    "garbage",
    "not_http",
    "reset",
    "reset_in_stream",
    "close_in_stream",
    "end_without_done",
    "error_500",
    "error_429",
    "loading_503",
    "too_long",
    "bad_value",
    "no_images",
    "error_body_with_200",
    "error_event_first",
    "error_event_in_stream",
    "close_after_done",
    "says_close",
    "slams_the_door",
    "done_in_content",
    "pings_first",
    "cut_plain",
    "away_for_a_while",
    "drops_the_first",
)


class FakeEngine:
    """Counts what it does, so that a test can see whether a slot came free."""

    def __init__(self) -> None:
        self.running = 0
        self.finished = 0
        self.connections = 0
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.port = 0
        self.server: asyncio.Server
        self.is_healthy = True

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        self.connections += 1
        try:
            while await self._one_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        except asyncio.CancelledError:
            return  # the test is over; Python 3.11's streams log a cancelled handler as an error
        finally:
            writer.close()

    async def _one_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        length = next(
            int(line.split(":")[1])
            for line in head.splitlines()
            if line.lower().startswith("content-length")
        )
        raw = await reader.readexactly(length)
        if path == "/health":
            _plain(writer, 200 if self.is_healthy else 503, {"status": "ok"})
            return True
        body = json.loads(raw)
        self.bodies.append(body)
        self.heads.append(head)
        if path == "/v1/embeddings":
            _plain(writer, 200, _vectors(body))
            return True
        self.running += 1
        gone = asyncio.create_task(reader.read(1))
        work = asyncio.create_task(self._play(body, writer))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            return False
        finally:
            self.running -= 1
            for task in (gone, work):
                task.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    async def _play(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        fault = body.get("fault", "")
        assert fault == "" or fault in FAULTS, fault
        if fault == "hang_before_headers":
            await asyncio.sleep(3600)
        if self._says_nothing(fault, writer):
            return False
        if fault == "away_for_a_while" and len(self.bodies) < 3:
            fault = "loading_503"
        if plain := _PLAIN_ANSWERS.get(fault):
            _plain(writer, *plain)
            return True
        if body.get("stream") is not True:
            return await self._whole_answer(fault, body, writer)
        head = HEAD
        if fault == "says_close":
            head = head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
        writer.write(head.encode())
        if fault == "hang_after_headers":
            await asyncio.sleep(3600)
        if fault == "error_event_first":
            _event(writer, json.dumps({"error": {"code": 500, "message": "secret path /x"}}))
            writer.write(b"0\r\n\r\n")
            return True
        if fault == "pings_first":
            for _ in range(3):
                _chunk(writer, b": ping\n\n")
                await asyncio.sleep(0.02)
        await self._events(fault, body, writer)
        if fault == "slams_the_door":  # says nothing, but is gone before the next request
            await asyncio.sleep(0.05)
            return False
        return fault not in ("close_in_stream", "reset_in_stream", "close_after_done")

    def _says_nothing(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        """Play the faults that end a connection without an answer."""
        if fault == "not_http":
            writer.write(b"220 mail.example ESMTP ready\r\n")
        elif fault == "reset":
            writer.transport.abort()
        return fault in ("not_http", "reset") or (
            fault == "drops_the_first" and len(self.bodies) == 1
        )

    async def _whole_answer(
        self, fault: str, body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        """A plain answer, which takes as long as its tokens do."""
        tokens = body.get("tokens", 5)
        await asyncio.sleep(tokens * body.get("pause", 0))
        message = {"role": "assistant", "content": "x" * tokens * body.get("size", 1)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        whole = json.dumps(answer | {"choices": [choice], "usage": _usage(body)}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(whole)}\r\n\r\n".encode()
        if fault == "cut_plain":
            writer.write(head + whole[:20])
            return False
        writer.write(head + whole)
        await writer.drain()
        self.finished += 1
        return True

    async def _events(self, fault: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        for number in range(body.get("tokens", 5)):
            if fault and number == 2 and await _break_off(fault, writer):
                return
            content = "x" * body.get("size", 1)
            if fault == "done_in_content":
                content = "data: [DONE]"
            _event(writer, _piece(body, {"content": content}, None))
            await writer.drain()
            await asyncio.sleep(body.get("pause", 0))
        _event(writer, _piece(body, {}, "stop"))
        _event(writer, json.dumps({"id": "c", "choices": [], "usage": _usage(body)}))
        if fault != "end_without_done":
            _event(writer, "[DONE]")
            self.finished += 1
        if fault != "close_after_done":
            writer.write(b"0\r\n\r\n")
        await writer.drain()


_ERROR_500 = {"error": {"code": 500, "message": "CUDA error at /srv/secret.cu", "type": "x"}}
_PLAIN_ANSWERS: dict[str, tuple[int, Any, str]] = {
    "error_500": (500, _ERROR_500, ""),
    "error_429": (429, {"error": {"message": "slow down"}}, "retry-after: 7\r\n"),
    "loading_503": (503, {"error": {"code": 503, "message": "Loading model"}}, ""),
    "bad_value": (400, {"error": {"code": 400, "message": "secret grammar"}}, ""),
    "no_images": (
        500,
        {"error": {"code": 500, "message": "image input is not supported - hint: secret mmproj"}},
        "",
    ),
    "error_body_with_200": (200, _ERROR_500, ""),
    "garbage": (200, "<<<>>>", ""),
    "too_long": (
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "the request exceeds the available context size",
                "n_prompt_tokens": 5000,
                "n_ctx": 2048,
            }
        },
        "",
    ),
}


async def _break_off(fault: str, writer: asyncio.StreamWriter) -> bool:
    """Play a fault in the middle of a stream; True when nothing may follow."""
    if fault == "half_event_then_stall":
        _chunk(writer, b'data: {"id": "c", "choi')
        await asyncio.sleep(3600)
    if fault == "reset_in_stream":
        await writer.drain()
        writer.transport.abort()
        return True
    if fault == "error_event_in_stream":
        _event(writer, json.dumps(_ERROR_500))
        return True
    return fault == "close_in_stream"


def _vectors(body: dict[str, Any]) -> dict[str, Any]:
    """Short vectors, one for each text or list of tokens."""
    given = body["input"]
    count = 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)
    data = [
        {"object": "embedding", "index": index, "embedding": [0.6, 0.8]} for index in range(count)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _usage(body: dict[str, Any]) -> dict[str, int]:
    tokens = body.get("tokens", 5)
    return {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}


def _piece(body: dict[str, Any], delta: dict[str, Any], finish_reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    return json.dumps(chunk | {"choices": [choice]}, separators=(",", ":"))


def _event(writer: asyncio.StreamWriter, data: str) -> None:
    _chunk(writer, f"data: {data}\n\n".encode())


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _plain(
    writer: asyncio.StreamWriter, status: int, content: object, more_headers: str = ""
) -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more_headers}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def running_engine(port: int = 0) -> AsyncIterator[FakeEngine]:
    """A fake engine on 127.0.0.1; `port` is set on it."""
    engine = FakeEngine()
    server = await asyncio.start_server(engine.handle, "127.0.0.1", port)
    engine.server = server
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()


async def _main(port: int) -> None:
    async with running_engine(port) as engine:
        print(f"fake engine on 127.0.0.1:{engine.port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
