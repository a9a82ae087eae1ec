"""What one process may use of a limit on requests at the same time. Pure, as `leases.py`.

A process tells the store how many places it has in use each time it asks, and holds some more for
a moment; the store takes those of a process that is not heard of any more.
"""

import math
from collections import deque

from api_server.services.quotas.leases import Peers
from api_server.services.quotas.rules import Rule
from api_server.services.quotas.window import share
from api_server.stores.limits import Ask, Granted

GRACE_SECONDS = 10.0
"""Without the store: for so long those who hold more than their share may still hold it."""

SHORTEST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
MOST_PROMISES = 1000
ASKS_AGAIN_SECONDS = 0.01


class Places:
    """One limit on what runs at the same time, as this process knows it.

    `left` are the places that it holds and does not use; below 0 where it uses more.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left = 0
        self.in_use = 0
        self.refused_units = math.inf
        self.refused_until = 0.0
        self._idle = 0  # the fewest that were left since the last look
        self._free = rule.limit  # held by nobody, when the store was last asked
        self._told = 0
        self._peers = Peers()
        self._held_alone = 0
        self._grace_until = 0.0
        self._promises: deque[float] = deque()
        self._mean_hold_seconds = 1.0

    @property
    def has_news(self) -> bool:
        """Whether there are places to give back, or to be told of."""
        return self._idle > 0 or self.left < 0

    def has(self, units: int, now: float) -> bool:  # noqa: ARG002 - as `Lease` has it
        """Whether a place is left."""
        return self.left >= units

    def take(self, units: int) -> int:
        """Use a place that `has` said is there."""
        self.left -= units
        self.in_use += units
        self._idle = min(self._idle, self.left)
        return 0

    def give_back(self, source: int, units: int, now: float) -> None:
        """Places come back by `release` alone."""

    def release(self, units: int, held_seconds: float) -> None:
        """A place is free again, after so long."""
        self.left += units
        self.in_use -= units
        self._mean_hold_seconds += 0.1 * (held_seconds - self._mean_hold_seconds)

    def charge(self, units: int, now: float) -> None:
        """Nothing that places know of."""

    # --- with the store

    def ask(self, now: float) -> Ask:  # noqa: ARG002 - as `Lease` has it
        """What the store is told and asked: what was idle all the time goes back."""
        extra = max(0, self.left - max(0, self._idle))
        self._told, self.left = self.in_use, 0
        return Ask(self.rule.key, self.rule.limit, 0, 0.0, in_use=self.in_use, extra=extra)

    def failed(self) -> None:
        """Nobody knows what the store heard; it is told anew when it is back."""
        self.left = self._told - self.in_use

    def answered(self, granted: Granted, sent: float, now: float) -> None:  # noqa: ARG002
        """The store's answer to what was asked at `sent`."""
        self.left = self._told + granted.units - self.in_use
        self._idle = 0
        self._free = self.rule.limit - granted.counted

    def expire(self, now: float) -> None:  # noqa: ARG002 - as `Lease` has it
        """A look at what is idle: what is so until the next one goes back then."""
        self._idle = self.left

    def refused(self, units: int, now: float) -> None:
        """The store has none; need not be asked again at once."""
        self.refused_until = now + ASKS_AGAIN_SECONDS
        self.refused_units = units

    # --- without the store

    def has_alone(self, units: int, now: float) -> bool:
        """Whether this process's share has a place.

        At first only of what is known to be nobody's: those who hold more than their share need
        some time to get down to it.
        """
        mine = share(self.rule.limit, self._peers.processes, self._peers.index)
        if now < self._grace_until:
            free = share(self._free, self._peers.processes, self._peers.index)
            mine = min(mine, self._held_alone + free)
        return self.in_use + units <= mine

    def take_alone(self, units: int, now: float) -> int:  # noqa: ARG002 - as `Lease` has it
        """Use what `has_alone` said is there."""
        return self.take(units)

    def count_share(self, units: int, now: float) -> None:
        """What is in use counts of the share anyway."""

    def go_alone(self, now: float, peers: Peers) -> None:
        """The store is away from now on."""
        self._peers = peers
        self._held_alone = self.in_use + max(0, self.left)
        self._grace_until = now + GRACE_SECONDS

    def rejoin(self, peers: Peers) -> None:
        """The store is back."""
        self._peers = peers

    def lost(self, now: float) -> None:
        """The store is told what is in use at each call."""

    # --- what clients are told

    def remaining(self, now: float) -> int:  # noqa: ARG002 - as `Lease` has it
        """How many places are free, as far as this process knows."""
        return max(0, self._free + self.left)

    def retry_after(self, units: int, now: float) -> float:
        """When a place should come free, from how long places were held lately."""
        while self._promises and self._promises[0] <= now:
            self._promises.popleft()
        place = (1 + len(self._promises)) * self._peers.processes * units
        seconds = self._mean_hold_seconds * place / self.rule.limit
        seconds = min(max(seconds, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
        if len(self._promises) < MOST_PROMISES:
            self._promises.append(now + seconds)
        return seconds

    def is_idle(self, now: float) -> bool:  # noqa: ARG002 - as `Lease` has it
        """Whether nothing is lost if it is forgotten."""
        return not (self.in_use or self.left)
