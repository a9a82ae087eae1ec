"""The clients that make the load: keep-alive connections that ask again when an answer is whole.

Every answer is checked (benchmarks/wire.py); what is wrong with one ends up in the phase's errors.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from benchmarks.exchanges import Exchange, Tally
from benchmarks.wire import AnswerReader, WireError

CLOCK = time.perf_counter


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
        self._sent_at = CLOCK()
        self._transport.write(self._exchange.request)

    def data_received(self, data: bytes) -> None:
        reader, phase = self._reader, self._phase
        seconds = CLOCK() - self._sent_at
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
