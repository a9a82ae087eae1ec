"""Gives an answer again instead of asking an engine; of several that ask at once, one does.

What may be given again is decided in key.py, how it is played as a stream in replay.py. Without
Redis, or with it away, every request goes to its engine.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from api_server.errors import DependencyDownError, EngineTimeoutError, InferenceError
from api_server.inference.catalogue import Model
from api_server.observability.record import RequestRecord
from api_server.services.answer_cache.key import Key, is_deterministic, key_of, revision_of
from api_server.services.answer_cache.replay import Tape
from api_server.services.answers import PLAIN_ANSWER, read_answer
from api_server.services.client import Client
from api_server.services.requests import Generation
from api_server.stores.answers import Answers

FAILED_TRIES = 2
"""After so many that came to nothing, a request that waits for others asks by itself: an engine
that fails slowly would else be asked by one after the other.
"""

MOST_WAITING = 256
"""For one answer; who comes then asks by itself, and meets the bound of the queue."""

BYTES_OF_EVENTS = 16
"""A stream is recorded up to so many times the bytes of the longest answer that is kept."""

Found = Literal["hit", "miss", "bypass"]


class Flight:
    """A request that asks for an answer which others wait for; None where it came to nothing."""

    def __init__(self) -> None:
        self.landed: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.is_off = False
        self.waiting = 0

    def land(self, answer: bytes | None) -> None:
        if not self.landed.done():
            self.landed.set_result(answer)


class Turn:
    """What the cache has for one request: an answer, or the wish to be told of one."""

    def __init__(
        self, found: Found, answer: bytes | None = None, flight: Flight | None = None
    ) -> None:
        self.found = found
        self.answer = answer
        self.kept: bytes | None = None
        self._flight = flight

    def keep(self, answer: bytes) -> None:
        """This is the whole answer; those who wait for it have it now."""
        self.kept = answer
        if self._flight is not None:
            self._flight.land(answer)


class AnswerCache:
    """One object for all requests of a process; `store` is None where there is no Redis."""

    def __init__(self, store: Answers | None, *, max_entry_bytes: int = 1024 * 1024) -> None:
        self._store = store
        self._max_entry_bytes = max_entry_bytes
        self._flights: dict[Key, Flight] = {}
        self._revisions: dict[str, str] = {}

    def key(self, generation: Generation, model: Model, client: Client) -> Key | None:
        """Under which its answer is kept; None where it has to be asked for anew."""
        if self._store is None or client.cache_wish == "no-store":
            return None
        if not is_deterministic(generation, model):
            return None
        revision = self._revisions.get(model.id)
        if revision is None:
            revision = self._revisions[model.id] = revision_of(model, _stamp(model))
        return key_of(generation, client.caller.app.id, revision)

    def tape(self, generation: Generation) -> Tape:
        """To record a stream with."""
        return Tape(generation.kind, BYTES_OF_EVENTS * self._max_entry_bytes)

    @asynccontextmanager
    async def turn(
        self, key: Key | None, seconds: float, record: RequestRecord
    ) -> AsyncIterator[Turn]:
        """What there is for a key, and a place to leave the answer where there is nothing.

        Waits at most so many seconds for others who ask the same. Raises `EngineTimeoutError`.
        """
        if key is None or self._store is None:
            yield Turn("bypass")
            return
        turn = await self._wait_for_others(key, seconds, record)
        if turn is not None:
            yield turn
            return
        flight = self._flights[key] = Flight()
        try:
            turn = await self._look_up(key, flight, self._store)
            yield turn
            if turn.kept is not None and len(turn.kept) <= self._max_entry_bytes:
                with suppress(DependencyDownError):
                    await self._store.put(*key, turn.kept)
        finally:
            del self._flights[key]
            flight.land(None)

    async def _wait_for_others(
        self, key: Key, seconds: float, record: RequestRecord
    ) -> Turn | None:
        """None for the one that is to ask."""
        if key not in self._flights:
            return None
        record.begin("queued")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        failures = 0
        while (flight := self._flights.get(key)) is not None:
            if failures == FAILED_TRIES or flight.waiting == MOST_WAITING:
                return Turn("miss")
            flight.waiting += 1
            try:
                # Not the future itself: who is cancelled while it waits would cancel it for all.
                await asyncio.wait({flight.landed}, timeout=deadline - loop.time())
            finally:
                flight.waiting -= 1
            if not flight.landed.done():
                raise EngineTimeoutError(
                    f"The answer took longer than the {seconds:g} s allowed: an identical request "
                    "that it waited for has none yet."
                )
            if flight.is_off:
                return Turn("bypass")
            answer = flight.landed.result()
            if answer is not None:
                return Turn("hit", answer)
            failures += 1
        return None

    async def _look_up(self, key: Key, flight: Flight, store: Answers) -> Turn:
        try:
            answer = await store.get(*key)
        except DependencyDownError:
            flight.is_off = True
            flight.land(None)
            return Turn("bypass")
        if answer is None or not _is_answer(answer):
            return Turn("miss", flight=flight)
        flight.land(answer)
        return Turn("hit", answer)


def wants_cache(client: Client) -> bool:
    """Whether a request asks for the cache, or its app does for all that do not say otherwise."""
    wish = client.cache_wish
    return wish is not None or client.caller.app.policy.cache


def _is_answer(answer: bytes) -> bool:
    """Somebody else may have written it."""
    try:
        return bool(read_answer(PLAIN_ANSWER, answer).choices)
    except InferenceError:
        return False


def _stamp(model: Model) -> str:
    """Of the file or folder whose content is the model; "" for an engine behind HTTP."""
    if model.path is None:
        return ""
    with suppress(OSError):
        about = model.path.stat()
        return f"{about.st_size}-{about.st_mtime_ns}"
    return ""
