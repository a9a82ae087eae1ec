"""The `Wire` of models that run in this process, so that they are served like any other."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from api_server.errors import (
    ConfigurationError,
    EngineTimeoutError,
    InferenceError,
    ResourceNotAvailableError,
)
from api_server.inference import cancelling
from api_server.inference.catalogue import Model
from api_server.inference.in_process.body import read_body
from api_server.inference.in_process.events import AnswerEvents
from api_server.inference.in_process.generation import (
    AnswerStream,
    Generation,
    Keeper,
    misconfigured,
    whole_answer,
)
from api_server.inference.schemas import InferenceRequest
from api_server.inference.wire import Call

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0

T = TypeVar("T")


class Status(Protocol):
    """How a model does: `load_seconds` is None until it was loaded once."""

    @property
    def state(self) -> Literal["unloaded", "loading", "ready", "failed"]:
        """What the manager is doing with it."""

    @property
    def load_seconds(self) -> float | None:
        """How long the last load took."""


class InProcessWire:
    """The way to one model in this process, which is loaded when it is needed.

    Loading is no part of the time for the first token, but of the total. `aclose` ends what runs.
    """

    def __init__(self, model: Model, keeper: Keeper, status: Callable[[], Status]) -> None:
        self.model = model
        self._keeper = keeper
        self._status = status
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, call: Call) -> bytes:
        """One answer in one piece."""
        seconds = self.model.timeouts.total_seconds

        async def attempt() -> bytes:
            answer = self._generation(request)
            try:
                return await whole_answer(answer, self._events(call))
            finally:
                answer.close()

        request, _ = read_body(call, self.model)
        try:
            async with asyncio.timeout(seconds):
                return await _while_there_is_no_room(attempt, call)
        except TimeoutError as exc:
            raise EngineTimeoutError(
                f"The answer took longer than the {seconds:g} s allowed."
            ) from exc

    async def open_stream(self, call: Call) -> AnswerStream:
        """Start a generation and wait for its first piece. Whoever gets the stream closes it."""

        async def attempt() -> AnswerStream:
            answer = self._generation(request)
            stream = AnswerStream(answer, self._events(call), wants_usage=wants_usage)
            has_begun = False
            try:
                await stream.begin()
                has_begun = True
                return stream
            finally:
                if not has_begun:
                    stream.close()

        request, wants_usage = read_body(call, self.model)
        return await _while_there_is_no_room(attempt, call)

    async def count_tokens(self, call: Call) -> int | None:
        """How many tokens a chat has, by the model's own tokenizer."""
        request, _ = read_body(call, self.model)
        try:
            async with self._keeper.use(self.model.id) as loaded:
                handler = self._keeper.handler_for(loaded)
                return await handler.count_tokens(loaded, request)
        except ConfigurationError as exc:
            raise misconfigured(self.model, exc) from exc
        except asyncio.CancelledError as exc:
            if cancelling.is_wanted():
                raise
            raise InferenceError(
                f"The handler of '{self.model.id}' cancelled the request itself."
            ) from exc

    @property
    def problems(self) -> list[str]:
        return []

    async def is_ready(self) -> bool:
        """Whether it is loaded, or would be on demand; not before its first load where it should be
        there from the start, and not when loading failed.
        """
        status = self._status()
        may_load = self.model.load == "on_demand" or status.load_seconds is not None
        return status.state == "ready" or (may_load and status.state != "failed")

    async def aclose(self) -> None:
        """End all generations."""
        running = set(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=self.model.timeouts.idle_seconds)

    def _generation(self, request: InferenceRequest) -> Generation:
        answer = Generation(self.model, self._keeper, request)
        self._running.add(answer.task)
        answer.task.add_done_callback(self._running.discard)
        return answer

    def _events(self, call: Call) -> AnswerEvents:
        return AnswerEvents(call.path, self.model.id, uuid.uuid4().hex, int(time.time()))


async def _while_there_is_no_room(attempt: Callable[[], Awaitable[T]], call: Call) -> T:
    """The answer of an attempt; until the call's deadline again while there is no memory for the
    model: others may go meanwhile.
    """
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await attempt()
        except ResourceNotAvailableError as exc:
            if loop.time() + pause >= call.deadline:
                raise
            call.on_retry(exc)
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
