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
MOST_FRAMES = 4
ASKS_AGAIN_SECONDS = 0.1
"""After a refusal the store is not asked for so long at the most: others may give units back."""


@dataclass(frozen=True, slots=True)
class Peers:
    """How many processes share the limits, and which of them this one is; None: it was not told."""

    processes: int = 1
    index: int | None = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """What was known when the store went away, and what was used here since."""

    others: Window
    own: Window

    def free(self, limit: int, peers: Peers, now: float) -> int:
        """What is left of this process's share."""
        left = limit - self.others.count(now)
        return share(left, peers.processes, peers.index) - self.own.count(now)


class Lease:
    """One limit over a period, as this process knows it."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.left = 0
        self.until = 0.0
        self.refused_units = math.inf
        self.refused_until = 0.0
        self.seen = -math.inf
        """When the store last told of it in full."""

        self._touched = 0.0
        self._peers = Peers()
        self._sent: list[tuple[float, int]] = []
        self._bucket = WITHOUT_GRANT
        self._taken = 0  # since it was last noted in `_own`
        self._rate = 0.0
        self._returns: dict[int, int] = {}
        self._uncharged: list[tuple[float, int]] = []
        self._promises: deque[float] = deque()
        # What the store last said, and what was used here; what is lent from what in an outage.
        self._view = Window(rule.counts_seconds)
        self._own = Window(rule.counts_seconds)
        self._frames: list[Frame] = []

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
            self.count_share(-units, now)
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
            extra=0 if self._frames else int(self._rate * self.rule.life_seconds / 2),
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
        if granted.frees or not granted.counted:
            self.seen = now
            self._view.clear()
            for seconds, units in granted.frees:
                self._view.add(now + seconds, units)
        more = granted.counted - self._view.count(now)
        # Less: something ended or was given back, nobody knows what. Kept until the next look.
        if more > 0:
            self._view.add(now + self.rule.counts_seconds, more)

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
        return self._alone_free(now) >= units

    def take_alone(self, units: int, now: float) -> int:
        """Use what `has_alone` said is there; returns its source."""
        self._taken += units
        self._note_alone(units, now)
        return WITHOUT_GRANT

    def count_share(self, units: int, now: float) -> None:
        """Count what the store is asked for as used of the share, too; below 0: not any more."""
        for frame in self._frames:
            if units > 0:
                frame.own.add(now + self.rule.seconds, units)
            else:
                frame.own.remove(-units)

    def go_alone(self, now: float, peers: Peers) -> None:
        """The store is away from now on; perhaps again, before all were back.

        What was known the last time holds as well: others may have told nothing since.
        """
        self._peers = peers
        frame = Frame(self._view.copy(), Window(self.rule.counts_seconds))
        for when, units in self._uncharged:
            if when + self.rule.seconds > now:
                frame.own.add(when + self.rule.seconds, units)
        self._frames = [*self._frames[1 - MOST_FRAMES :], frame]

    def rejoin(self, peers: Peers) -> None:
        """The store is back and was told by all of what they used without it."""
        self._frames, self._peers = [], peers

    def lost(self, now: float) -> None:
        """The store has lost everything: it is told of all that was used here."""
        self._note(now)
        period = self.rule.counts_seconds
        self._uncharged = [(until - period, units) for until, units in self._own.entries()]
        self._returns, self.left = {}, 0

    def _alone_free(self, now: float) -> int:
        return min(frame.free(self.rule.limit, self._peers, now) for frame in self._frames)

    def _note_alone(self, units: int, now: float) -> None:
        self.count_share(units, now)
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
        if self._frames:
            return max(0, self._alone_free(now))
        return max(0, self.rule.limit - self._view.count(now) + self.left)

    def retry_after(self, units: int, now: float) -> float:
        """In how many seconds a client that was refused so many units will find them.

        Each refusal is promised units of its own, so that not all come back at the same time.
        """
        while self._promises and self._promises[0] <= now:
            self._promises.popleft()
        promised = len(self._promises) * units
        if self._frames:
            at = self._share_frees_at(promised + units, now) or self._share_frees_at(units, now)
        else:
            need = min(units + promised * self._peers.processes, self.rule.limit)
            self._view.count(now)
            at = frees_at(self.rule.limit, need, self._view, Window(1.0))
        last = self._promises[-1] if self._promises else now
        at = max(at or now + self.rule.counts_seconds, last)
        if len(self._promises) < MOST_PROMISES:
            self._promises.append(at)
        return max(at - now, 0.001)

    def _share_frees_at(self, units: int, now: float) -> float | None:
        """When every frame has so much; None if one never has."""
        latest = now
        for frame in self._frames:
            if frame.free(self.rule.limit, self._peers, now) >= units:
                continue
            limit, peers = self.rule.limit, self._peers
            at = frees_at(limit, units, frame.others, frame.own, peers.processes, peers.index)
            if at is None:
                return None
            latest = max(latest, at)
        return latest

    def is_idle(self, now: float) -> bool:
        """Whether nothing is lost if it is forgotten."""
        return not (self.has_news or self.left or self._taken or self._own.count(now))
