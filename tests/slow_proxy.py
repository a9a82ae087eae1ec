"""A TCP proxy in front of a server, which plays its bad days: it answers late, hangs, refuses, or
comes and goes. It runs in a thread of its own, so that its delays are its own.

A connection that it refuses is taken, counted and reset at once: for a client much the same as one
that the kernel refuses, and it can be counted.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["pass", "slow", "hang", "refuse", "flap"]

SLOW_SECONDS = 2.0
FLAP_SECONDS = 0.5
BLOCK_BYTES = 65536
START_SECONDS = 5.0
CLOSING_SECONDS = 0.02
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: to close is to reset."""


@dataclass(eq=False)
class _Pair:
    """One client and the server it is joined to; `tasks` carry bytes."""

    client: asyncio.StreamWriter
    flow: asyncio.Event
    server: asyncio.StreamWriter | None = None
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def reset(self) -> None:
        """End both at once."""
        for writer in (self.client, self.server):
            if writer is not None:
                _reset(writer)
        for task in self.tasks:
            task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class SlowProxy:
    """Listens on a port of its own; `attempts` are when clients connected (`time.monotonic`)."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._mode: Mode = "pass"
        self._pairs: set[_Pair] = set()
        self._flow = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self._stop = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        self._flapping: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="slow proxy", daemon=True)
        self.attempts: list[float] = []
        self.port = 0
        self.slow_seconds = SLOW_SECONDS

    def start(self) -> None:
        self._thread.start()
        assert self._is_listening.wait(START_SECONDS), "the proxy does not start"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)
        assert not self._thread.is_alive(), "the proxy does not end"

    def set(self, mode: Mode) -> None:
        """What it does from now on, with connections that exist as well; returns when it does."""
        done = threading.Event()

        def change() -> None:
            if self._flapping is not None:
                self._flapping.cancel()
                self._flapping = None
            if mode == "flap":
                self._flapping = self._loop.create_task(self._flap())
            else:
                self._change(mode)
            done.set()

        self._loop.call_soon_threadsafe(change)
        assert done.wait(START_SECONDS)

    def strand(self) -> None:
        """The connections that exist never carry anything again, and nobody is told: as when a
        machine dies and another takes its address. New ones are served.
        """
        done = threading.Event()

        def change() -> None:
            self._flow.clear()
            self._flow = asyncio.Event()
            self._flow.set()
            done.set()

        self._loop.call_soon_threadsafe(change)
        assert done.wait(START_SECONDS)

    def most_attempts(self, since: float, until: float, seconds: float = 1.0) -> int:
        """The most connections that were tried within any so many seconds of that time."""
        return densest(self.attempts, since, until, seconds)

    # in the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._flow.set()
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        await self._stop.wait()
        server.close()
        if self._flapping is not None:
            self._flapping.cancel()
        for pair in list(self._pairs):
            pair.reset()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.sleep(CLOSING_SECONDS)  # the loop closes the sockets

    async def _flap(self) -> None:
        while True:
            self._change("refuse")
            await asyncio.sleep(FLAP_SECONDS)
            self._change("pass")
            await asyncio.sleep(FLAP_SECONDS)

    def _change(self, mode: Mode) -> None:
        self._mode = mode
        self._flow.clear() if mode == "hang" else self._flow.set()
        if mode == "refuse":
            for pair in list(self._pairs):
                pair.reset()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts.append(time.monotonic())
        if self._mode == "refuse":
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        pair = _Pair(writer, self._flow)
        self._pairs.add(pair)
        try:
            await self._join(pair, reader)
        except (OSError, asyncio.CancelledError):  # reset by us, or by one of them
            pair.reset()
        finally:
            self._pairs.discard(pair)
            self._handlers.discard(task)

    async def _join(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        await pair.flow.wait()
        answers, server = await asyncio.open_connection("127.0.0.1", self._target_port)
        pair.server = server
        if self._mode == "refuse":
            raise ConnectionResetError
        pair.tasks = [
            asyncio.create_task(self._carry(pair.flow, reader, server, is_answer=False)),
            asyncio.create_task(self._carry(pair.flow, answers, pair.client, is_answer=True)),
        ]
        await asyncio.wait(pair.tasks, return_when=asyncio.FIRST_COMPLETED)
        pair.reset()
        await asyncio.gather(*pair.tasks, return_exceptions=True)

    async def _carry(
        self,
        flow: asyncio.Event,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_answer: bool,
    ) -> None:
        """Pass on what comes, in order; every byte of an answer is late while we are slow."""
        while block := await reader.read(BLOCK_BYTES):
            if is_answer and self._mode == "slow":
                await asyncio.sleep(self.slow_seconds)
            await flow.wait()
            writer.write(block)
            await writer.drain()


def densest(times: Sequence[float], since: float, until: float, seconds: float) -> int:
    """The most of these (sorted) times that lie within any so many seconds of that span."""
    inside = times[bisect_left(times, since) : bisect_right(times, until)]
    return max((bisect_right(inside, at + seconds) - n for n, at in enumerate(inside)), default=0)


@contextlib.contextmanager
def slow_proxy(target_port: int) -> Iterator[SlowProxy]:
    """A proxy in front of a port of this machine."""
    proxy = SlowProxy(target_port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
