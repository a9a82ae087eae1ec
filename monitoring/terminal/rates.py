"""What counters grew by, from one answer to the next and over a sliding window. Pure.

A gateway that starts anew counts from zero. A counter that is smaller than before, or gone, gives
that away; then everything in the newer answer happened since. Nothing is ever negative.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from monitoring.terminal.exposition import Exposition, Labels, Series

_PARTS = ("_bucket", "_count", "_sum")


@dataclass(frozen=True)
class Growth:
    """What counters grew by between two moments, in seconds on one clock.

    `restarts` is how often within that time they fell.
    """

    began: float
    ended: float
    series: Series
    restarts: int = 0


def has_restarted(before: Exposition, after: Exposition) -> bool:
    """Whether whoever counts has lost what it had counted.

    A histogram's sum is no witness: it falls where values are negative.
    """
    return any(
        after.series.get(name, {}).get(labels, -1.0) < value
        for name in _cumulative(before)
        if not name.endswith("_sum")
        for labels, value in before.series.get(name, {}).items()
    )


def growth(before: Exposition, after: Exposition) -> dict[str, dict[Labels, float]]:
    """By how much each counter and each part of a histogram grew; a new one began at zero."""
    known: Series = {} if has_restarted(before, after) else before.series
    return {
        name: {
            labels: value - known.get(name, {}).get(labels, 0.0)
            for labels, value in after.series[name].items()
        }
        for name in _cumulative(after)
        if name in after.series
    }


def _cumulative(exposition: Exposition) -> Iterator[str]:
    for name, kind in exposition.kinds.items():
        if kind == "counter":
            yield name
        elif kind == "histogram":
            yield from (name + part for part in _PARTS)


def added_up(parts: Iterable[Series]) -> dict[str, dict[Labels, float]]:
    """Series by series."""
    total: dict[str, dict[Labels, float]] = {}
    for part in parts:
        for name, values in part.items():
            sums = total.setdefault(name, {})
            for labels, value in values.items():
                sums[labels] = sums.get(labels, 0.0) + value
    return total


class Window:
    """The growth of the last `seconds`: as many answers as reach into them, at least the last."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._parts: deque[Growth] = deque()
        self._last: tuple[float, Exposition] | None = None

    def add(self, taken: float, exposition: Exposition) -> None:
        """An answer of the moment `taken`, which is later than that of the one before."""
        if self._last is not None:
            began, before = self._last
            fell = has_restarted(before, exposition)
            self._parts.append(Growth(began, taken, growth(before, exposition), int(fell)))
        self._last = (taken, exposition)
        while len(self._parts) > 1 and self._parts[0].began < taken - self._seconds:
            self._parts.popleft()

    def growth(self) -> Growth | None:
        """None before the second answer."""
        if not self._parts:
            return None
        series: Mapping[str, Mapping[Labels, float]] = added_up(part.series for part in self._parts)
        restarts = sum(part.restarts for part in self._parts)
        return Growth(self._parts[0].began, self._parts[-1].ended, series, restarts)

    def last_step(self) -> Growth | None:
        """That between the last two answers alone."""
        return self._parts[-1] if self._parts else None
