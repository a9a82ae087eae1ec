"""The events of runs in this process: those that are done here at once, of others that there are
new ones. Rows are the truth; what is here is newer than they are, never more.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence

from api_server.errors import OverloadedError
from api_server.stores.run_rows import Event

KEPT_EVENTS = 512
"""Of a run, besides those that are not written yet; who reads more slowly reads rows."""

MOST_FOLLOWERS = 2000

MOST_UNHEARD = 2000
"""Runs of which there was something new lately while nobody followed them."""

LOOK_SECONDS = 1.0
LOOKS_A_SECOND = 200
"""Of all followers together: who has heard nothing for so long looks into PostgreSQL. News come by
themselves; this is for those that get lost.
"""


class Channel:
    """The newest events of a run that is done here. All up to `floor` are rows."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self._written = floor
        self._events: deque[Event] = deque()

    def tell(self, events: Sequence[Event]) -> None:
        self._events.extend(events)

    def written(self, up_to: int) -> None:
        """These are rows now, and need not stay here."""
        self._written = max(self._written, up_to)
        while len(self._events) > KEPT_EVENTS and self._events[0].n <= self._written:
            self.floor = self._events.popleft().n

    def after(self, n: int) -> list[Event] | None:
        """Those behind an event; None where only rows can tell."""
        if n < self.floor:
            return None
        newest: list[Event] = []
        for event in reversed(self._events):
            if event.n <= n:
                break
            newest.append(event)
        return newest[::-1]


class Follower:
    """One who follows the events of a run, or waits for news of it."""

    def __init__(self, *, has_news: bool = False) -> None:
        self.has_news = has_news
        self._waiting: asyncio.Future[None] | None = None

    def tell(self) -> None:
        self.has_news = True
        self._wake()

    async def wait(self, seconds: float) -> None:
        """Until there may be something new, no longer than so long. One waits at a time."""
        if not self.has_news:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self.has_news = False

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Hub:
    """One for a process."""

    def __init__(self, most: int = MOST_FOLLOWERS) -> None:
        self._most = most
        self._count = 0
        self._channels: dict[str, Channel] = {}
        self._followers: dict[str, set[Follower]] = {}
        self._unheard: dict[str, None] = {}

    def open(self, run_id: str, floor: int) -> Channel:
        """A run is done here from now on."""
        channel = self._channels[run_id] = Channel(floor)
        return channel

    def close(self, run_id: str, channel: Channel) -> None:
        """It is not any more. Whoever follows reads rows."""
        if self._channels.get(run_id) is channel:
            del self._channels[run_id]
        self.told(run_id)

    def channel(self, run_id: str) -> Channel | None:
        return self._channels.get(run_id)

    @property
    def look_seconds(self) -> float:
        """How long a follower waits for news before it looks."""
        return max(LOOK_SECONDS, self._count / LOOKS_A_SECOND)

    def told(self, run_id: str) -> None:
        """There is something new of a run."""
        followers = self._followers.get(run_id)
        if followers is None:
            self._unheard.pop(run_id, None)  # it is the newest again
            self._unheard[run_id] = None
            if len(self._unheard) > MOST_UNHEARD:
                del self._unheard[next(iter(self._unheard))]
            return
        for follower in followers:
            follower.tell()

    @contextlib.contextmanager
    def follow(self, run_id: str) -> Iterator[Follower]:
        """Raises `OverloadedError` when there are too many."""
        if self._count >= self._most:
            raise OverloadedError("Too many runs are followed now.", retry_after_seconds=5)
        follower = Follower(has_news=run_id in self._unheard)
        self._count += 1
        self._followers.setdefault(run_id, set()).add(follower)
        try:
            yield follower
        finally:
            self._count -= 1
            others = self._followers[run_id]
            others.discard(follower)
            if not others:
                del self._followers[run_id]
