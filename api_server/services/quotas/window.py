"""How many units still count, and until when. Pure: every time is given, in seconds of one clock.

Units of about the same time are kept as one, and count a little longer than they must.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

BUCKETS = 400
"""Into so many parts a period is cut: a unit counts up to a part too long, 0.25 %."""


class Window:
    """Units, each of which counts until a time. Bounded by the number of parts."""

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._places: list[int] = []  # ascending
        self._units: list[int] = []
        self.total = 0

    def add(self, until: float, units: int) -> None:
        """Count them until then."""
        place = math.ceil(until / self._width)
        at = len(self._places)
        while at and self._places[at - 1] > place:
            at -= 1
        if at and self._places[at - 1] == place:
            self._units[at - 1] += units
        else:
            self._places.insert(at, place)
            self._units.insert(at, units)
        self.total += units

    def count(self, now: float) -> int:
        """How many count now."""
        gone = 0
        while gone < len(self._places) and self._places[gone] * self._width <= now:
            self.total -= self._units[gone]
            gone += 1
        if gone:
            del self._places[:gone], self._units[:gone]
        return self.total

    def remove(self, units: int) -> int:
        """Count so many of the newest no more; returns how many there were."""
        removed = 0
        while removed < units and self._units:
            part = min(units - removed, self._units[-1])
            self._units[-1] -= part
            removed += part
            if not self._units[-1]:
                del self._units[-1], self._places[-1]
        self.total -= removed
        return removed

    def copy(self) -> "Window":
        """The same, to go its own way."""
        other = Window(0.0)
        other._width, other.total = self._width, self.total
        other._places, other._units = self._places.copy(), self._units.copy()
        return other

    def clear(self) -> None:
        """Nothing counts any more."""
        self._places.clear()
        self._units.clear()
        self.total = 0

    def entries(self) -> Iterator[tuple[float, int]]:
        """(until when, units), the earliest first."""
        for place, units in zip(self._places, self._units, strict=True):
            yield place * self._width, units


def share(units: int, processes: int, index: int | None) -> int:
    """What one of several processes may have of it; all shares together are no more than that.

    An `index` of None is a process that does not know which it is: the rest is nobody's then.
    """
    if units <= 0:
        return 0
    even, rest = divmod(units, processes)
    return even + (index is not None and index < rest)


def frees_at(
    limit: int,
    need: int,
    others: Window,
    own: Window,
    processes: int = 1,
    index: int | None = 0,
) -> float | None:
    """When this process's share of what `others` leave has room for `need` beside its `own`.

    None if it never has. Both windows must have been counted just now.
    """
    times = sorted(
        [(until, units, 0) for until, units in others.entries()]
        + [(until, 0, units) for until, units in own.entries()]
    )
    left, mine = others.total, own.total
    for (until, theirs, ours), (following, *_) in pairwise([*times, (math.inf, 0, 0)]):
        left, mine = left - theirs, mine - ours
        if following > until and share(limit - left, processes, index) - mine >= need:
            return until
    return None
