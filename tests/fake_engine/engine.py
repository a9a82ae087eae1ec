"""Listens, gives requests a slot each, counts what becomes of them; obeys `POST /fault`."""

import asyncio
import collections
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from . import answers, wire
from .orders import Orders
from .playing import FOREVER_SECONDS, Exchange

WORK = (answers.CHAT, answers.TEXT, answers.EMBEDDINGS, answers.COUNT)
PROMPT_SPEED, ANSWER_SPEED = 1000, 50
"""Tokens per second, as it says."""

KEPT_REQUESTS = 100
KEPT_IDS = 10_000


class FakeEngine:
    """Counts what it does, so that a test can see whether a slot came free.

    Of all requests that were begun, `running` have a slot, `queued` wait for one, and the others
    are `finished` (a whole answer), `cancelled` (the client left) or `faulted` (ended as told).
    The last `bodies` and `heads` are kept.
    """

    def __init__(self, slots: int = 0) -> None:
        self.slots = slots
        self._free = asyncio.Semaphore(slots) if slots else None
        self.running = 0
        self.queued = 0
        self.finished = 0
        self.cancelled = 0
        self.faulted = 0
        self.predicted_tokens = 0
        self.connections = 0
        self.requests: collections.Counter[str] = collections.Counter()
        self._finished_tokens: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._tries: collections.OrderedDict[str, int] = collections.OrderedDict()
        self.bodies: collections.deque[dict[str, Any]] = collections.deque(maxlen=KEPT_REQUESTS)
        self.heads: collections.deque[str] = collections.deque(maxlen=KEPT_REQUESTS)
        self.is_healthy = True
        self._orders = Orders({})
        self._idle: set[asyncio.StreamWriter] = set()
        self._later: asyncio.Task[None] | None = None
        self._host = ""
        self.port = 0
        self.server: asyncio.Server

    async def listen(self, host: str, port: int) -> None:
        """Start to listen; `port` is set then."""
        self.server = await asyncio.start_server(self._handle, host, port)
        self._host = host
        self.port = self.server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listen no more. Answers that run go on until the event loop ends."""
        self.server.close()
        if self._later is not None:
            self._later.cancel()

    def counts(self) -> dict[str, Any]:
        """All that was counted, for JSON; `request_ids` has how often each was sent here, and
        `finished_tokens` how many tokens each had that got a whole answer.
        """
        return {
            "running": self.running,
            "queued": self.queued,
            "finished": self.finished,
            "cancelled": self.cancelled,
            "faulted": self.faulted,
            "predicted_tokens": self.predicted_tokens,
            "connections": self.connections,
            "requests": dict(self.requests),
            "request_ids": dict(self._tries),
            "finished_tokens": dict(self._finished_tokens),
        }

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        self.connections += 1
        try:
            stays_open = True
            while stays_open:
                self._idle.add(writer)
                request = await wire.read_request(reader)
                self._idle.discard(writer)
                stays_open = await self._answer(request, reader, writer)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        except asyncio.CancelledError:
            return  # the end; Python 3.11's streams log a cancelled handler as an error
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _answer(
        self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection may serve another."""
        self.requests[request.path] += 1
        try:
            if request.method == "POST" and request.path in WORK:
                return await self._work(request, reader, writer)
            if request.method == "POST" and request.path == "/fault":
                self.obey(**json.loads(request.body or b"{}"))
                wire.answer(writer, 200, {})
            elif request.path == "/health":
                await self._say_health(writer)
            else:
                wire.answer(writer, *self._about(request))
        except ValueError as exc:
            wire.answer(writer, 400, answers.error(400, str(exc)))
        await writer.drain()
        return True

    def obey(self, **told: Any) -> None:
        """What `POST /fault` does."""
        self._orders = Orders(told)
        if self._orders.refuse_seconds:
            self._later = asyncio.create_task(self._refuse(self._orders.refuse_seconds))

    async def _refuse(self, seconds: float) -> None:
        self.server.close()
        await asyncio.sleep(0)  # whoever told us gets the answer first
        for writer in self._idle:
            writer.close()
        await asyncio.sleep(seconds)
        await self.listen(self._host, self.port)

    async def _say_health(self, writer: asyncio.StreamWriter) -> None:
        if self._orders.health == "hangs":
            await asyncio.sleep(FOREVER_SECONDS)
        if self.is_healthy and not self._orders.health:
            wire.answer(writer, 200, {"status": "ok"})
        else:
            wire.answer(writer, 503, answers.error(503, "Loading model"))

    def _about(self, request: wire.Request) -> tuple[int, object]:
        """What the engine tells of itself."""
        match request.path:
            case "/v1/models":
                return 200, answers.models()
            case "/props":
                return 200, answers.props(self.slots)
            case "/slots":
                return 200, answers.slot_states(self.slots, self.running)
            case "/metrics":
                return 200, self._metrics()
            case "/counts":
                return 200, self.counts()
        return 404, answers.error(404, "File Not Found")

    def _metrics(self) -> bytes:
        begun = sum(self.requests[path] for path in WORK)
        prompts = answers.PROMPT_TOKENS * self.finished
        answers_seconds = self.predicted_tokens / ANSWER_SPEED
        return answers.metrics(
            {
                "llamacpp:prompt_tokens_total": ("counter", prompts),
                "llamacpp:prompt_seconds_total": ("counter", prompts / PROMPT_SPEED),
                "llamacpp:tokens_predicted_total": ("counter", self.predicted_tokens),
                "llamacpp:tokens_predicted_seconds_total": ("counter", answers_seconds),
                "llamacpp:n_decode_total": ("counter", self.predicted_tokens),
                "llamacpp:requests_processing": ("gauge", self.running),
                "llamacpp:requests_deferred": ("gauge", self.queued),
                "llamacpp:n_busy_slots_per_decode": ("gauge", self.running),
                "fake_engine:requests_total": ("counter", begun),
                "fake_engine:requests_finished_total": ("counter", self.finished),
                "fake_engine:requests_cancelled_total": ("counter", self.cancelled),
                "fake_engine:requests_faulted_total": ("counter", self.faulted),
            }
        )

    async def _work(
        self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        body: dict[str, Any] = json.loads(request.body)
        play = self._orders.play(body)
        self.bodies.append(body)
        self.heads.append(request.head)
        self._count_try(request.headers.get("x-request-id", ""))
        exchange = Exchange(request.path, body, play, len(self.bodies), writer)
        gone = asyncio.create_task(reader.read(1))
        work = asyncio.create_task(self._in_a_slot(exchange))
        outcome = "cancelled"
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            stays_open = work.result()
            outcome = "finished" if exchange.is_complete else "faulted"
            if exchange.is_complete:
                request_id = request.headers.get("x-request-id", "")
                self._finished_tokens[request_id] = exchange.predicted_tokens
                if len(self._finished_tokens) > KEPT_IDS:
                    self._finished_tokens.popitem(last=False)
            return stays_open
        finally:
            for task in (gone, work):
                task.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)
            setattr(self, outcome, getattr(self, outcome) + 1)

    async def _in_a_slot(self, exchange: Exchange) -> bool:
        if self._free is not None:
            self.queued += 1
            try:
                await self._free.acquire()
            finally:
                self.queued -= 1
        self.running += 1
        try:
            return await exchange.run()
        finally:
            self.running -= 1
            self.predicted_tokens += exchange.predicted_tokens
            if self._free is not None:
                self._free.release()

    def _count_try(self, request_id: str) -> None:
        self._tries[request_id] = self._tries.get(request_id, 0) + 1
        if len(self._tries) > KEPT_IDS:
            self._tries.popitem(last=False)


@asynccontextmanager
async def running_engine(
    port: int = 0, *, host: str = "127.0.0.1", slots: int = 0
) -> AsyncIterator[FakeEngine]:
    """A fake engine in this process; `port` is set on it."""
    engine = FakeEngine(slots)
    await engine.listen(host, port)
    try:
        yield engine
    finally:
        engine.close()
