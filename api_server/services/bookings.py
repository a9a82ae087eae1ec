"""Places promised to clients that were sent away: what a Retry-After is made of. Pure."""

import bisect
import collections

LONGEST_RETRY_SECONDS = 60.0
"""The official clients ignore a longer Retry-After."""

SHORTEST_RETRY_SECONDS = 0.5
"""What the official clients wait by themselves; time enough to see that answers take longer now."""

GRACE_SECONDS = 2.0
"""For so long after its time a booked place is kept for the client that was sent away."""


class Bookings:
    """The places promised to one flow's clients that were sent away, each at a time of its own."""

    __slots__ = ("_booked_until", "_promises")

    def __init__(self) -> None:
        self._promises: collections.deque[float] = collections.deque()
        self._booked_until = 0.0

    def __bool__(self) -> bool:
        """Whether anything may be promised still."""
        return bool(self._promises)

    def book(self, now: float, seconds_per_place: float) -> float:
        """Promise the next place that comes free; returns in how many seconds that is."""
        earliest = now + max(SHORTEST_RETRY_SECONDS, seconds_per_place)
        booked = max(earliest, self._booked_until + seconds_per_place)
        if booked - now >= LONGEST_RETRY_SECONDS:
            return LONGEST_RETRY_SECONDS
        self._booked_until = booked
        self._promises.append(booked)
        return booked - now

    def due(self, now: float, within_seconds: float = 0.0) -> int:
        """How many who were sent away are expected back until then, and have not come yet."""
        if not self._promises:
            return 0
        while self._promises and self._promises[0] < now - GRACE_SECONDS:
            self._promises.popleft()
        return bisect.bisect_right(self._promises, now + within_seconds)

    def claim(self, now: float) -> None:
        """One who was sent away has come back; if it is time for one, its place is kept no more."""
        if self.due(now):
            self._promises.popleft()
