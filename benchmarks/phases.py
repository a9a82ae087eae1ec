"""One phase of load: many clients at once, warmed up, counted for a while, then drained.

Everything is bounded: connecting, warming up, counting, and waiting for what is under way.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.exchanges import Exchange
from benchmarks.load import CLOCK, LoadConnection, Phase

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 15.0
"""How long answers that are under way at the end of a phase may take to become whole."""

PATIENCE_SECONDS = 60.0
"""How much longer they may take to begin at all, so that what is slow does not count as broken."""


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

    Answers that are not whole `DRAIN_SECONDS` after the end are cut; those of which nothing has
    come `PATIENCE_SECONDS` later are errors.
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
            began = CLOCK()
            for client in clients:
                client.ask()
            cut = await _drain(phase, seconds)
            return Counted(
                CLOCK() - began,
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
    cpu, began = cpu_seconds(), CLOCK()
    while phase.is_open and CLOCK() - began < bounds.seconds:
        if phase.tally.answers - answers >= bounds.max_answers:
            break
        await asyncio.sleep(min(0.05, bounds.seconds))
    seconds, cpu = CLOCK() - began, cpu_seconds() - cpu
    answers, tokens = phase.tally.answers - answers, phase.tally.tokens - tokens
    whole_seconds = phase.tally.whole_seconds[whole:]
    # A peer so slow that hardly a stream began while we counted: then those of the warm-up too.
    seen = phase.tally.first_token_seconds[first_tokens:]
    first_token_seconds = seen if len(seen) >= 10 else list(phase.tally.first_token_seconds)
    cut = await _drain(phase, DRAIN_SECONDS, PATIENCE_SECONDS)
    return Counted(
        seconds, answers, tokens, whole_seconds, first_token_seconds, cpu, cut, phase.errors
    )


async def _warm_up(phase: Phase, bounds: Bounds, clients: int) -> None:
    """Until the time is over and as many answers have begun as there are clients."""
    began = CLOCK()
    while phase.is_open and CLOCK() - began < bounds.max_warm_up_seconds:
        have_begun = phase.tally.answers + len(phase.tally.first_token_seconds) >= clients
        if have_begun and CLOCK() - began >= bounds.warm_up_seconds / 2:
            return
        await asyncio.sleep(0.02)


async def _drain(phase: Phase, seconds: float, patience_seconds: float = 0.0) -> int:
    """Wait for what is under way; gives how many answers had to be cut.

    After `seconds`, answers that have begun are cut; those that have not may still begin within
    `patience_seconds`, and else are errors.
    """
    phase.is_open = False
    deadline = CLOCK() + seconds
    while phase.waiting and not phase.errors and CLOCK() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    deadline += patience_seconds
    cut = 0
    while True:
        for client in [client for client in phase.waiting if client.received_bytes]:
            client.abort()
            cut += 1
        if not phase.waiting or phase.errors or CLOCK() >= deadline:
            break
        await asyncio.sleep(0.02)
    if phase.waiting and not phase.errors:
        waited = seconds + patience_seconds
        phase.errors.append(f"{len(phase.waiting)} requests had no answer within {waited:g} s")
    return cut
