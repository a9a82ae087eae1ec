"""The load generator: keep-alive connections that send the next request when an answer is whole.

Every answer is checked (benchmarks/wire.py); what is wrong with one ends up in `errors`. Phases are
bounded: they warm up, count for a while, and then wait a bounded time for what is under way.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from benchmarks.exchanges import Exchange, Tally
from benchmarks.wire import AnswerReader, WireError

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 15.0
"""How long answers that are under way at the end of a phase may take to become whole."""

_CLOCK = time.perf_counter


@dataclass
class Phase:
    """What the connections of one phase counted together, and what they wait for."""

    is_open: bool = True
    tally: Tally = field(default_factory=Tally)
    errors: list[str] = field(default_factory=list)
    waiting: set["LoadConnection"] = field(default_factory=set)

    def fail(self, reason: str) -> None:
        """Note an error; from then on nothing new is asked."""
        self.errors.append(reason)
        self.is_open = False


class LoadConnection(asyncio.Protocol):
    """One client on one connection."""

    def __init__(self, phase: Phase, exchange: Exchange) -> None:
        self._phase = phase
        self._exchange = exchange
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self.received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        """Send the next request."""
        if self._transport is None:
            self._phase.fail("the server closed a connection that was kept alive")
            return
        self._phase.waiting.add(self)
        self.received_bytes = 0
        self._sent_at = _CLOCK()
        self._transport.write(self._exchange.request)

    def data_received(self, data: bytes) -> None:
        reader, phase = self._reader, self._phase
        seconds = _CLOCK() - self._sent_at
        self.received_bytes += len(data)
        try:
            body = reader.feed(data)
        except WireError as exc:
            self._fail(str(exc))
            return
        if body:
            self._exchange.block(phase.tally, body, seconds)
        if reader.is_complete:
            fault = self._exchange.end(phase.tally, reader.status, seconds)
            if fault is not None:
                self._fail(fault)
                return
            reader.reset()
            phase.tally.answers += 1
            if phase.is_open:
                self.ask()
            else:
                phase.waiting.discard(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        if self in self._phase.waiting:
            self._fail("the server broke off an answer")

    def abort(self) -> None:
        self._phase.waiting.discard(self)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        self._phase.fail(reason)
        self.abort()


@dataclass(frozen=True)
class Counted:
    """What one phase gave between the end of its warm-up and its own end."""

    seconds: float
    answers: int
    tokens: int
    whole_seconds: list[float]
    first_token_seconds: list[float]
    cpu_seconds: float
    cut: int
    errors: list[str]


@dataclass(frozen=True)
class Bounds:
    """How long a phase warms up and counts, in seconds, and after how many answers it ends."""

    warm_up_seconds: float
    seconds: float
    max_answers: int = 10**9
    max_warm_up_seconds: float = 60.0


async def run_phase(
    port: int,
    exchanges: Sequence[Exchange],
    bounds: Bounds,
    cpu_seconds: Callable[[], float],
) -> Counted:
    """One client for each exchange, all at once. `cpu_seconds` is read as counting starts and ends.

    Answers that are not whole `DRAIN_SECONDS` after the end are cut, if anything of them came;
    if nothing came, that is an error.
    """
    phase = Phase()
    try:
        async with _connected(port, phase, exchanges) as clients:
            for client in clients:  # spread out, so that not all streams are in step
                client.ask()
                await asyncio.sleep(bounds.warm_up_seconds / 2 / len(clients))
            await _warm_up(phase, bounds, len(clients))
            return await _count(phase, bounds, cpu_seconds)
    except OSError as exc:
        return _not_connected(exc)


async def run_once(port: int, exchanges: Sequence[Exchange], seconds: float) -> Counted:
    """One request for each exchange, all at once, within so many seconds."""
    phase = Phase(is_open=False)
    try:
        async with _connected(port, phase, exchanges) as clients:
            began = _CLOCK()
            for client in clients:
                client.ask()
            cut = await _drain(phase, seconds)
            return Counted(
                _CLOCK() - began,
                phase.tally.answers,
                phase.tally.tokens,
                phase.tally.whole_seconds,
                phase.tally.first_token_seconds,
                0.0,
                cut,
                phase.errors,
            )
    except OSError as exc:
        return _not_connected(exc)


@asynccontextmanager
async def _connected(
    port: int, phase: Phase, exchanges: Sequence[Exchange]
) -> AsyncIterator[list[LoadConnection]]:
    """A client for each exchange; gone at the end. Raises `OSError` (a time-out is one)."""
    loop = asyncio.get_running_loop()
    clients: list[LoadConnection] = []
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            for exchange in exchanges:
                client = LoadConnection(phase, exchange)
                await loop.create_connection(functools.partial(_itself, client), "127.0.0.1", port)
                clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.abort()


def _itself(client: LoadConnection) -> LoadConnection:
    return client


def _not_connected(error: OSError) -> Counted:
    reason = f"connecting failed: {error or 'it took too long'}"
    return Counted(0, 0, 0, [], [], 0, 0, [reason])


async def _count(
    phase: Phase,
    bounds: Bounds,
    cpu_seconds: Callable[[], float],
) -> Counted:
    first_tokens = len(phase.tally.first_token_seconds)
    answers, tokens, whole = phase.tally.answers, phase.tally.tokens, len(phase.tally.whole_seconds)
    cpu, began = cpu_seconds(), _CLOCK()
    while phase.is_open and _CLOCK() - began < bounds.seconds:
        if phase.tally.answers - answers >= bounds.max_answers:
            break
        await asyncio.sleep(min(0.05, bounds.seconds))
    seconds, cpu = _CLOCK() - began, cpu_seconds() - cpu
    answers, tokens = phase.tally.answers - answers, phase.tally.tokens - tokens
    whole_seconds = phase.tally.whole_seconds[whole:]
    # A peer so slow that hardly a stream began while we counted: then those of the warm-up too.
    seen = phase.tally.first_token_seconds[first_tokens:]
    first_token_seconds = seen if len(seen) >= 10 else list(phase.tally.first_token_seconds)
    cut = await _drain(phase, DRAIN_SECONDS)
    return Counted(
        seconds, answers, tokens, whole_seconds, first_token_seconds, cpu, cut, phase.errors
    )


async def _warm_up(phase: Phase, bounds: Bounds, clients: int) -> None:
    """Until the time is over and as many answers have begun as there are clients."""
    began = _CLOCK()
    while phase.is_open and _CLOCK() - began < bounds.max_warm_up_seconds:
        have_begun = phase.tally.answers + len(phase.tally.first_token_seconds) >= clients
        if have_begun and _CLOCK() - began >= bounds.warm_up_seconds / 2:
            return
        await asyncio.sleep(0.02)


async def _drain(phase: Phase, seconds: float) -> int:
    """Wait for what is under way; gives how many answers had to be cut."""
    phase.is_open = False
    deadline = _CLOCK() + seconds
    while phase.waiting and not phase.errors and _CLOCK() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    left = list(phase.waiting)
    if silent := sum(not client.received_bytes for client in left):
        phase.errors.append(f"{silent} requests had no answer within {seconds:g} s")
    return len(left)
