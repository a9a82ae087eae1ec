"""What counters grew by, from one answer to the next and over a sliding window. Pure.

A gateway that starts anew counts from zero. A counter that is smaller than before, or gone, gives
that away; then everything in the newer answer happened since. Nothing is ever negative.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from api_server.observability import metrics
from monitoring.terminal.exposition import Exposition, Labels, Series

START_TIME = metrics.START_TIME.name
ALL_SAY = (metrics.JOBS.name, *(each.name for each in metrics.FAMILIES if each.across == "max"))

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


def is_another(before: Exposition, after: Exposition, asked: float) -> bool:
    """Whether this is another gateway than the one before, and not that one, started anew: it was
    there already when that was asked, in seconds since 1970.
    """
    began, begins = (each.series.get(START_TIME, {}).get(()) for each in (before, after))
    return began is not None and begins is not None and began != begins and begins < asked


def together(series: Sequence[Series]) -> Series:
    """What several gateways hold: what all of them say is said once, the rest is added up."""
    total = added_up(series)
    for name in ALL_SAY:
        values = [each[name] for each in series if name in each]
        for labels in total.get(name, {}):
            total[name][labels] = max(value[labels] for value in values if labels in value)
    return total


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


def of_several(parts: Sequence[Growth | None]) -> Growth | None:
    """What the counters of several gateways grew by; None where none was seen twice yet."""
    told = [part for part in parts if part is not None]
    if not told:
        return None
    began, ended = min(part.began for part in told), max(part.ended for part in told)
    series = added_up(part.series for part in told)
    return Growth(began, ended, series, sum(part.restarts for part in told))


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
        return of_several(self._parts)

    def last_step(self) -> Growth | None:
        """That between the last two answers alone."""
        return self._parts[-1] if self._parts else None
