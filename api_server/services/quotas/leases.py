"""What one process may use of one limit over a period (places are in `places.py`).

Pure: every time is given, in seconds of one clock. Units come from a grant of the store, which is
good for a short life; without the store from the process's share of what nobody is known to use.
"""

import math
from collections import deque
from dataclasses import dataclass

from api_server.services.quotas.rules import Rule
from api_server.services.quotas.window import Window, frees_at, share
from api_server.stores.limits import Ask, Granted

WITHOUT_GRANT = -1
"""The source of units that no store granted."""

MOST_PROMISES = 1000
ASKS_AGAIN_SECONDS = 0.1
"""After a refusal the store is not asked for so long at the most: others may give units back."""


@dataclass(frozen=True, slots=True)
class Peers:
    """How many processes share the limits, and which of them this one is; None: it was not told."""

    processes: int = 1
    index: int | None = 0


class Lease:
    """One limit over a period, as this process knows it."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left = 0
        self.until = 0.0
        self.refused_units = math.inf
        self.refused_until = 0.0
        self.seen = -math.inf
        """When the store last told of it."""

        self._touched = 0.0
        self._is_alone = False
        self._peers = Peers()
        self._sent: list[tuple[float, int]] = []
        self._bucket = WITHOUT_GRANT
        self._taken = 0  # since it was last noted in `_own`
        self._rate = 0.0
        self._returns: dict[int, int] = {}
        self._uncharged: list[tuple[float, int]] = []
        self._promises: deque[float] = deque()
        # What the store last said, what was used without it since, all that was used here.
        self._view = Window(rule.counts_seconds)
        self._local = Window(rule.counts_seconds)
        self._own = Window(rule.counts_seconds)

    @property
    def has_news(self) -> bool:
        """Whether there is something to give back or to charge."""
        return bool(self._returns or self._uncharged)

    def has(self, units: int, now: float) -> bool:
        """Whether the grant has so much left."""
        return self.left >= units and now < self.until

    def take(self, units: int) -> int:
        """Use what `has` said is there; returns its source, for `give_back` and `charge`."""
        self.left -= units
        self._taken += units
        return self._bucket

    def give_back(self, source: int, units: int, now: float) -> None:
        """What was taken was not used."""
        self._taken -= units
        if source == WITHOUT_GRANT:
            self._local.remove(units)
            while units and self._uncharged:
                when, last = self._uncharged.pop()
                if last > units:
                    self._uncharged.append((when, last - units))
                units -= min(units, last)
        elif source == self._bucket and now < self.until:
            self.left += units
        else:
            self._returns[source] = self._returns.get(source, 0) + units

    def release(self, units: int, held_seconds: float) -> None:
        """What is counted over a period stays counted when a request ends."""

    def charge(self, units: int, now: float) -> None:
        """More was used than was taken."""
        self._taken += units
        self._note_alone(units, now)

    # --- with the store

    def ask(self, now: float) -> Ask:
        """What the store is told and asked. Until `answered`, nothing is left here."""
        self.expire(now, is_asking=True)
        oldest = now - self.rule.counts_seconds
        self._uncharged = [(when, units) for when, units in self._uncharged if when > oldest]
        seconds = max(now - self._touched, 0.001)
        self._rate += (self._taken / seconds - self._rate) * min(1.0, 0.2 + seconds)
        self._note(now)
        ask = Ask(
            self.rule.key,
            self.rule.limit,
            self.rule.seconds,
            self.rule.life_seconds,
            list(self._returns.items()),
            [(max(0.0, now - when), units) for when, units in self._uncharged],
            extra=0 if self._is_alone else int(self._rate * self.rule.life_seconds / 2),
        )
        self._returns = {}
        self._sent, self._uncharged = self._uncharged, []
        return ask

    def failed(self) -> None:
        """Nobody knows whether the store heard: better counted twice than not at all."""
        self._uncharged = self._sent + self._uncharged
        self._sent = []

    def answered(self, granted: Granted, sent: float, now: float) -> None:
        """The store's answer to what was asked at `sent`."""
        self._sent = []
        self._bucket, self.left = granted.bucket, granted.units
        self.until = sent + self.rule.life_seconds
        self.look(granted, now)

    def look(self, granted: Granted, now: float) -> None:
        """Remember what is used by all, in case the store goes away."""
        if self._is_alone:  # it has what we used alone twice then
            return
        self.seen = now
        if granted.frees:
            self._view.clear()
            for seconds, units in granted.frees:
                self._view.add(now + seconds, units)
        more = granted.counted - self._view.count(now)
        if more > 0:
            self._view.add(now + self.rule.counts_seconds, more)
        else:
            self._view.remove(-more)

    def survey(self, now: float) -> Ask:
        """A question for what is used by all, which changes nothing."""
        self._note(now)
        rule = self.rule
        return Ask(rule.key, rule.limit, rule.seconds, rule.life_seconds, tells=True)

    def expire(self, now: float, *, is_asking: bool = False) -> None:
        """What is left of a grant whose life is over goes back."""
        if self.left and (is_asking or now >= self.until):
            self._returns[self._bucket] = self._returns.get(self._bucket, 0) + self.left
            self.left = 0

    def refused(self, units: int, now: float) -> None:
        """The store has not so much; need not be asked again at once."""
        shortest = min(max(self.rule.seconds / 100, 0.005), ASKS_AGAIN_SECONDS)
        free = frees_at(self.rule.limit, units, self._view, Window(1.0))
        self.refused_until = min(now + shortest, free or math.inf)
        self.refused_units = units

    # --- without the store

    def has_alone(self, units: int, now: float) -> bool:
        """Whether this process's own share has so much."""
        return self.has(units, now) or self._alone_free(now) >= units

    def take_alone(self, units: int, now: float) -> int:
        """Use what `has_alone` said is there; returns its source."""
        if self.has(units, now):
            return self.take(units)
        self._taken += units
        self._note_alone(units, now)
        return WITHOUT_GRANT

    def go_alone(self, now: float, peers: Peers) -> None:
        """The store is away from now on."""
        self._is_alone, self._peers = True, peers
        self._local.clear()
        for when, units in self._uncharged:
            if when + self.rule.seconds > now:
                self._local.add(when + self.rule.seconds, units)

    def rejoin(self, peers: Peers) -> None:
        """The store is back and was told by all of what they used without it."""
        self._is_alone, self._peers = False, peers

    def lost(self, now: float) -> None:
        """The store has lost everything: it is told of all that was used here."""
        self._note(now)
        period = self.rule.counts_seconds
        self._uncharged = [(until - period, units) for until, units in self._own.entries()]
        self._returns, self.left = {}, 0

    def _alone_free(self, now: float) -> int:
        others = self._view.count(now)
        free = share(self.rule.limit - others, self._peers.processes, self._peers.index)
        return free - self._local.count(now)

    def _note_alone(self, units: int, now: float) -> None:
        if self._is_alone:
            self._local.add(now + self.rule.seconds, units)
        self._uncharged.append((now, units))
        if len(self._uncharged) > MOST_PROMISES:  # halve it, as if both of two were of the later
            pairs = self._uncharged
            halves = zip(pairs[::2], pairs[1::2], strict=False)
            self._uncharged = [(when, one + two) for (_, one), (when, two) in halves]
            self._uncharged += pairs[len(pairs) - len(pairs) % 2 :]

    def _note(self, now: float) -> None:
        self._own.count(now)
        if self._taken > 0:
            self._own.add(now + self.rule.counts_seconds, self._taken)
        else:
            self._own.remove(-self._taken)
        self._taken, self._touched = 0, now

    # --- what clients are told

    def remaining(self, now: float) -> int:
        """How many units may be used now, as far as this process knows."""
        if self._is_alone:
            return max(0, self._alone_free(now))
        return max(0, self.rule.limit - self._view.count(now) + self.left)

    def retry_after(self, units: int, now: float) -> float:
        """In how many seconds a client that was refused so many units will find them.

        Each refusal is promised units of its own, so that not all come back at the same time.
        """
        self._view.count(now)
        self._local.count(now)
        while self._promises and self._promises[0] <= now:
            self._promises.popleft()
        promised = len(self._promises) * units
        if self._is_alone:
            at = self._frees_at(promised + units, self._local, self._peers) or self._frees_at(
                units, self._local, self._peers
            )
        else:
            promised *= self._peers.processes
            need = min(promised + units, self.rule.limit)
            at = self._frees_at(need, Window(1.0), Peers())
        last = self._promises[-1] if self._promises else now
        at = max(at or now + self.rule.counts_seconds, last)
        if len(self._promises) < MOST_PROMISES:
            self._promises.append(at)
        return max(at - now, 0.001)

    def _frees_at(self, units: int, own: Window, peers: Peers) -> float | None:
        return frees_at(self.rule.limit, units, self._view, own, peers.processes, peers.index)

    def is_idle(self, now: float) -> bool:
        """Whether nothing is lost if it is forgotten."""
        return not (self.has_news or self.left or self._taken or self._own.count(now))
