"""Decides when a request may enter an engine: no more at once than it serves, the rest in a queue.

One `Gate` for each model. First come, first served; a queue with a bound in length and in time.
Who is sent away is told when there will be room: each refusal books the next place that comes free,
and that place is kept.
"""

import asyncio
import bisect
import collections
import time
from collections.abc import Callable
from dataclasses import dataclass

from api_server.errors import OverloadedError, QueueTimeoutError

FIRST_GUESS_SECONDS = 1.0
"""How long a request is taken to hold its slot before one has been seen to."""

SMOOTHING, SURPRISED = 0.1, 0.2
"""The weight of the newest observation in the mean; a longer one than expected counts more."""

LONGEST_RETRY_SECONDS = 60.0
"""The official clients ignore a longer Retry-After."""

SHORTEST_RETRY_SECONDS = 0.5
"""What the official clients wait by themselves; time enough to see that answers take longer now."""

GRACE_SECONDS = 2.0
"""For so long after its time a booked place is kept for the client that was sent away."""

SLACK = 1.25
"""Places are booked more slowly than they come free on the average: no engine is a clockwork."""


class Bookings:
    """The places promised to clients that were sent away, each at a time of its own."""

    def __init__(self) -> None:
        self._promises: collections.deque[float] = collections.deque()
        self._booked_until = 0.0

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
        while self._promises and self._promises[0] < now - GRACE_SECONDS:
            self._promises.popleft()
        return bisect.bisect_right(self._promises, now + within_seconds)

    def claim(self, now: float) -> None:
        """One who was sent away has come back; if it is time for one, its place is kept no more."""
        if self.due(now):
            self._promises.popleft()


@dataclass(eq=False, slots=True)
class _Ticket:
    weight: int
    admitted: "asyncio.Future[float]"


class Gate:
    """Lets `capacity` requests into one engine; a request for several choices weighs several.

    `enter` waits its turn and must be followed by `leave`, whatever happens in between. Not for
    threads: one event loop uses it.
    """

    def __init__(
        self, capacity: int, queue_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity = capacity
        self.queue_size = queue_size
        self.running = 0
        self._entered_sum = 0.0
        self._clock = clock
        self._waiting: collections.deque[_Ticket] = collections.deque()
        self._bookings = Bookings()
        self._mean_hold_seconds = FIRST_GUESS_SECONDS

    def resize(self, capacity: int) -> None:
        """Let more or fewer in from now on; who is in stays in."""
        self.capacity = capacity
        self._admit()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def weight_of(self, choices: int) -> int:
        """What a request for so many choices occupies; never more than there is."""
        return min(choices, self.capacity)

    async def enter(
        self, weight: int, *, deadline_seconds: float, is_retry: bool | None = None
    ) -> float:
        """Wait for room in the engine; returns when it was entered. Cancel it to leave the queue.

        `is_retry` is whether the client says that it was sent away before; None if it says nothing.

        Raises `OverloadedError` at once when the queue is full or too slow for the deadline, and
        `QueueTimeoutError` when the deadline passed in the queue.
        """
        if not self._waiting and self._has_room(weight):
            now = self._take(weight)
            if is_retry is not False:
                self._bookings.claim(now)
            return now
        self._check_room(weight, deadline_seconds, is_retry)
        ticket = _Ticket(weight, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        try:
            async with asyncio.timeout(deadline_seconds):
                return await ticket.admitted
        except BaseException as exc:
            if ticket.admitted.done() and not ticket.admitted.cancelled():
                # Admitted in the very moment in which it gave up.
                self._release(weight, ticket.admitted.result())
            else:
                if ticket in self._waiting:  # else it was passed over already
                    self._waiting.remove(ticket)
                self._admit()  # it may have stood in the way of a lighter one
            if isinstance(exc, TimeoutError):
                raise QueueTimeoutError(
                    f"No engine was free within {deadline_seconds:g} s. Try again later.",
                    retry_after_seconds=self._book(weight),
                ) from exc
            raise

    def leave(self, weight: int, entered: float, *, has_answered: bool) -> None:
        """Make room again. `entered` is what `enter` returned; unanswered requests tell nothing
        of how long an engine takes.
        """
        if has_answered:
            held_seconds = self._clock() - entered
            surprise = held_seconds - self._mean_hold_seconds
            self._mean_hold_seconds += (SURPRISED if surprise > 0 else SMOOTHING) * surprise
        self._release(weight, entered)

    def expected_wait_seconds(self) -> float:
        """How long one who joins the queue now will probably wait."""
        queued = sum(ticket.weight for ticket in self._waiting)
        return (queued + 1) * self._seconds_per_place()

    def _seconds_per_place(self) -> float:
        """A place comes free so often. Where those that run are older than any was expected to
        get, what was seen before says nothing: then they are taken to be half done.
        """
        age_seconds = self._clock() - self._entered_sum / self.running if self.running else 0.0
        hold_seconds = self._mean_hold_seconds
        if age_seconds > hold_seconds:
            hold_seconds = 2 * age_seconds
        return max(hold_seconds, 0.001) / self.capacity

    def _seconds_per_booking(self) -> float:
        return self._seconds_per_place() * SLACK

    def _check_room(self, weight: int, deadline_seconds: float, is_retry: bool | None) -> None:
        """A place in the queue may be taken by whoever is expected; by others, if it is not booked.

        A client that says nothing is taken for one who comes back when one is due.
        """
        now = self._clock()
        is_expected = is_retry is not False and self._bookings.due(now) > 0
        drained_seconds = self.queue_size * self._seconds_per_booking()
        booked = 0 if is_expected else self._bookings.due(now, drained_seconds)
        is_too_slow = (
            self.waiting >= self.capacity and self.expected_wait_seconds() > deadline_seconds
        )
        if self.waiting + booked >= self.queue_size or is_too_slow:
            raise OverloadedError(
                f"Too many requests: {self.waiting} are waiting already. Try again later.",
                retry_after_seconds=self._book(weight),
            )
        if is_expected:
            self._bookings.claim(now)

    def _book(self, weight: int) -> float:
        return self._bookings.book(self._clock(), weight * self._seconds_per_booking())

    def _has_room(self, weight: int) -> bool:
        """Who weighs more than there is, since there was more when it came, enters alone."""
        return self.running + weight <= self.capacity or not self.running

    def _take(self, weight: int) -> float:
        now = self._clock()
        self.running += weight
        self._entered_sum += weight * now
        return now

    def _release(self, weight: int, entered: float) -> None:
        self.running -= weight
        self._entered_sum = self._entered_sum - weight * entered if self.running else 0.0
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0].weight):
            ticket = self._waiting.popleft()
            if not ticket.admitted.done():
                ticket.admitted.set_result(self._take(ticket.weight))
