"""Threads of messages: what a conversation needs of them, and a store that forgets at the end."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from api_server.errors import OverloadedError, QueueTimeoutError

Message = Mapping[str, Any]
"""A message of a chat in OpenAI's shape: `role`, `content`, and what belongs to the role."""

MAX_THREADS = 1000
MAX_MESSAGES = 400
MAX_WAITING = 16
TURN_SECONDS = 600.0


class Conversations(Protocol):
    """Keeps threads. Raises `StackError`s only."""

    async def history(self, thread_id: str) -> Sequence[Message]:
        """The messages of a thread, oldest first; none for one that nobody has written to."""

    async def append(
        self, thread_id: str, messages: Sequence[Message], *, message_id: str | None = None
    ) -> None:
        """Write messages, all or none. With a `message_id` that is there already: do nothing."""

    async def has(self, thread_id: str, message_id: str) -> bool:
        """Whether a message of that id was written to a thread."""

    def turn(self, thread_id: str) -> AbstractAsyncContextManager[None]:
        """Wait until all earlier turns of the thread are over: its answers come in order.

        Raises `OverloadedError` where too many wait, `QueueTimeoutError` after a bounded time.
        """


@dataclass
class _Thread:
    messages: list[Message] = field(default_factory=list)
    message_ids: dict[str, None] = field(default_factory=dict)
    """Oldest first."""


@dataclass
class _Turns:
    """Who takes part in a thread now: one that has its turn, and those who wait."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class MemoryConversations:
    """Threads in this process's memory. The threads and messages used least recently go first."""

    def __init__(
        self,
        *,
        max_threads: int = MAX_THREADS,
        max_messages: int = MAX_MESSAGES,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._max_threads = max_threads
        self._max_messages = max_messages
        self._turn_seconds = turn_seconds
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._turns: dict[str, _Turns] = {}

    async def history(self, thread_id: str) -> Sequence[Message]:
        """The messages of a thread, oldest first."""
        thread = self._threads.get(thread_id)
        return () if thread is None else tuple(thread.messages)

    async def append(
        self, thread_id: str, messages: Sequence[Message], *, message_id: str | None = None
    ) -> None:
        """Write messages, once for each `message_id`."""
        thread = self._threads.setdefault(thread_id, _Thread())
        self._threads.move_to_end(thread_id)
        if message_id is not None:
            if message_id in thread.message_ids:
                return
            thread.message_ids[message_id] = None
            if len(thread.message_ids) > self._max_messages:
                del thread.message_ids[next(iter(thread.message_ids))]
        thread.messages += messages
        _shorten(thread, self._max_messages)
        while len(self._threads) > self._max_threads:
            self._threads.popitem(last=False)

    async def has(self, thread_id: str, message_id: str) -> bool:
        """Whether a message of that id was written, of those that are remembered."""
        thread = self._threads.get(thread_id)
        return thread is not None and message_id in thread.message_ids

    @asynccontextmanager
    async def turn(self, thread_id: str) -> AsyncIterator[None]:
        """Wait for one's turn in a thread."""
        turns = self._turns.setdefault(thread_id, _Turns())
        if turns.count > MAX_WAITING:
            raise OverloadedError(
                f"{MAX_WAITING} messages wait in this thread already.", retry_after_seconds=5
            )
        turns.count += 1
        try:
            try:
                async with asyncio.timeout(self._turn_seconds):
                    await turns.lock.acquire()
            except TimeoutError as exc:
                raise QueueTimeoutError(
                    f"An earlier message of this thread was not answered in "
                    f"{self._turn_seconds:g} s."
                ) from exc
            try:
                yield
            finally:
                turns.lock.release()
        finally:
            turns.count -= 1
            if not turns.count:
                del self._turns[thread_id]


def _shorten(thread: _Thread, max_messages: int) -> None:
    """Drop the oldest; what is left begins with a whole turn, no answer to what is gone."""
    over = len(thread.messages) - max_messages
    if over <= 0:
        return
    while over < len(thread.messages) - 1 and thread.messages[over].get("role") != "user":
        over += 1
    del thread.messages[:over]
