"""Decides when a request may enter an engine: no more at once than it serves, the rest in a queue.

One `Gate` for each model. The queue has a bound in length and in time and is fair between apps
(fairness.py says whose turn it is). Who is sent away is told when there will be room: each refusal
books the next place that comes free for its flow, and that place is kept.
"""

import asyncio
import time
from collections.abc import Callable

from api_server.errors import OverloadedError, QueueTimeoutError
from api_server.services.fairness import NOBODY, Account, FairQueue, Flow, Ticket

SLACK = 1.25
"""Places are booked more slowly than they come free on the average: no engine is a clockwork."""


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
        self._clock = clock
        self._queue = FairQueue()

    def resize(self, capacity: int) -> None:
        """Let more or fewer in from now on; who is in stays in."""
        self.capacity = capacity
        self._admit()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.waiting

    def oldest_seconds(self) -> float:
        """How long the one has been waiting that has waited longest; 0 with an empty queue."""
        oldest = self._queue.oldest()
        return 0.0 if oldest is None else max(0.0, self._clock() - oldest.joined)

    def weight_of(self, choices: int) -> int:
        """What a request for so many choices occupies; never more than there is."""
        return min(choices, self.capacity)

    async def enter(
        self,
        weight: int,
        *,
        deadline_seconds: float,
        is_retry: bool | None = None,
        flow: Flow = NOBODY,
    ) -> float:
        """Wait for room in the engine; returns when it was entered. Cancel it to leave the queue.

        `is_retry` is whether the client says that it was sent away before; None if it says nothing.

        Raises `OverloadedError` when the queue is full or too slow for the deadline: at once, or
        when the place is needed for a flow with fewer in the queue. Raises `QueueTimeoutError`
        when the deadline passed in the queue.
        """
        mine = self._queue.arrive(flow)
        if not self._queue.waiting and self._has_room(weight):
            now = self._take(mine, weight)
            if is_retry is not False:
                mine.bookings.claim(now)
            return now
        was_promised = self._check_room(mine, weight, deadline_seconds, is_retry)
        admitted = asyncio.get_running_loop().create_future()
        ticket = Ticket(weight, mine, admitted, was_promised, self._clock())
        self._queue.join(ticket)
        self._admit()  # its turn may come before that of a heavier one, for which there is no room
        try:
            async with asyncio.timeout(deadline_seconds):
                return await ticket.admitted
        except OverloadedError:
            raise
        except BaseException as exc:
            self._give_up(ticket)
            if isinstance(exc, TimeoutError):
                raise QueueTimeoutError(
                    f"No engine was free within {deadline_seconds:g} s. Try again later.",
                    retry_after_seconds=self._book(mine, weight),
                ) from exc
            raise

    def leave(
        self,
        weight: int,
        entered: float,
        *,
        has_answered: bool,
        tokens: int | None = None,
        flow: Flow = NOBODY,
    ) -> None:
        """Make room again. `entered` is what `enter` returned; unanswered requests tell nothing
        of how long an engine takes. `tokens` are those of the prompt and the answer; None where
        nobody knows.
        """
        mine = self._queue.account(flow)
        if has_answered:
            self._queue.held(mine, self._clock() - entered)
        elif tokens is None:
            tokens = 0
        self._release(mine, weight, entered, tokens)

    def expected_wait_seconds(self, flow: Flow = NOBODY) -> float:
        """How long one of this flow that joins the queue now will probably wait."""
        return self._expected_wait_seconds(self._queue.account(flow))

    def _expected_wait_seconds(self, mine: Account) -> float:
        return (mine.waiting_weight() + 1) * self._seconds_per_place_of(mine)

    def _seconds_per_place(self, account: Account) -> float:
        """A place would come free so often if this flow had all of them; those with longer answers
        get fewer.
        """
        return account.hold_seconds(self._clock()) / max(1, self.capacity)

    def _seconds_per_place_of(self, mine: Account) -> float:
        """A place comes free so often for this flow."""
        return self._seconds_per_place(mine) / self._queue.share_of(mine, self.capacity)

    def _check_room(
        self, mine: Account, weight: int, deadline_seconds: float, is_retry: bool | None
    ) -> bool:
        """Whether a place in the queue was promised to it; raises where there is none for it.

        A client that says nothing is taken for one who comes back when one is due.
        """
        now = self._clock()
        is_expected = is_retry is not False and mine.bookings.due(now) > 0
        ahead = 0 if is_expected else mine.bookings.due(now, deadline_seconds)
        is_too_slow = self._is_too_slow(mine, deadline_seconds, ahead)
        if is_too_slow or not self._has_place(mine, is_expected):
            raise self._overloaded(mine, weight)
        if is_expected:
            mine.bookings.claim(now)
        return is_expected

    def _is_too_slow(self, mine: Account, deadline_seconds: float, booked: int) -> bool:
        """Whether one more would wait too long, or make those wait too long who are promised a
        place until then.
        """
        waiting = len(mine.waiting)
        if waiting < self.capacity * self._queue.share_of(mine, self.capacity):
            return False
        promised_seconds = booked * self._seconds_per_place_of(mine)
        return self._expected_wait_seconds(mine) + promised_seconds > deadline_seconds

    def _has_place(self, mine: Account, is_expected: bool) -> bool:
        """Whether one more of this flow may wait, perhaps in the place of another one.

        Whoever is expected may take a place that is there; others one that is not booked. Of a flow
        that has less in the queue than another, promised places included, it may take that of the
        other.
        """
        drained_seconds = self.queue_size * self._seconds_per_place(mine) * SLACK
        now = self._clock()
        booked = 0 if is_expected else mine.bookings.due(now, drained_seconds)
        size = len(mine.waiting) + booked
        others = [
            (len(each.waiting) + each.bookings.due(now, drained_seconds), each.weight)
            for each in self._queue.active()
            if each is not mine
        ]
        if size + sum(other for other, _ in others) < self.queue_size:
            return True
        has_free = self.waiting < self.queue_size
        if is_expected and has_free:
            return True
        wanted = (size + 1) / mine.weight
        if has_free:
            return any(other / other_weight > wanted for other, other_weight in others)
        return self._displace(mine, wanted)

    def _displace(self, mine: Account, wanted: float) -> bool:
        """Send the newest of the largest flow away, if that has more than `wanted` for its weight;
        one that was not promised its place, where there is such a one.
        """
        largest = self._queue.largest(but=mine)
        if largest is None or len(largest.waiting) / largest.weight <= wanted:
            return False
        newest_first = list(reversed(largest.waiting))
        ticket = next((each for each in newest_first if not each.was_promised), newest_first[0])
        self._queue.remove(ticket)
        if not ticket.admitted.done():
            ticket.admitted.set_exception(self._overloaded(largest, ticket.weight))
        return True

    def _overloaded(self, account: Account, weight: int) -> OverloadedError:
        return OverloadedError(
            f"Too many requests: {self.waiting} are waiting already. Try again later.",
            retry_after_seconds=self._book(account, weight),
        )

    def _book(self, account: Account, weight: int) -> float:
        seconds = weight * self._seconds_per_place_of(account) * SLACK
        return account.bookings.book(self._clock(), seconds)

    def _has_room(self, weight: int) -> bool:
        """Who weighs more than there is, since there was more when it came, enters alone."""
        return self.running + weight <= self.capacity or not self.running

    def _take(self, account: Account, weight: int) -> float:
        now = self._clock()
        self.running += weight
        self._queue.charge(account, weight, now)
        return now

    def _release(self, account: Account, weight: int, entered: float, tokens: int | None) -> None:
        self.running -= weight
        self._queue.settle(account, weight, entered, tokens)
        if self._queue.waiting:
            self._admit()

    def _give_up(self, ticket: Ticket) -> None:
        """One that waited does so no more; it may have been admitted or sent away meanwhile."""
        admitted = ticket.admitted
        if self._queue.remove(ticket):
            self._admit()  # it may have stood in the way of a lighter one
        elif admitted.done() and not admitted.cancelled() and admitted.exception() is None:
            self._release(ticket.account, ticket.weight, admitted.result(), tokens=0)

    def _admit(self) -> None:
        while (ticket := self._queue.head()) is not None and self._has_room(ticket.weight):
            self._queue.remove(ticket)
            if not ticket.admitted.done():
                ticket.admitted.set_result(self._take(ticket.account, ticket.weight))
