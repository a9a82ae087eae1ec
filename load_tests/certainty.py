"""How sure a figure is, from how many requests it was measured: order statistics. Pure.

Requests are taken as independent. They are not quite (a slow moment slows many), so that a range is
rather too narrow than too wide: a figure at its limit deserves a longer run.
"""

import math
from collections.abc import Callable, Sequence

DOUBT = 0.05
"""The chance that the truth lies beyond one end of a range."""


def needed_for(percent: float) -> int:
    """So many values have, but for `DOUBT`, one above the true percentile: p99 needs 299."""
    return math.ceil(math.log(DOUBT) / math.log(percent / 100))


def percentile_range(ordered: Sequence[float], percent: float) -> tuple[float | None, float | None]:
    """Between which two of the values the true percentile lies; None where none bounds it."""
    count, share = len(ordered), percent / 100
    lower = _ranks_at_most(count, share)
    above = _ranks_at_most(count, 1 - share)
    return (
        ordered[lower - 1] if lower else None,
        ordered[count - above] if above else None,
    )


def share_range(found: int, count: int) -> tuple[float, float]:
    """Where the true share lies, when `found` of `count` were so (Clopper and Pearson)."""
    if count < 1:
        return 0.0, 1.0
    low = 0.0 if found == 0 else _solve(lambda share: at_most(found - 1, count, share), 1 - DOUBT)
    high = 1.0 if found == count else _solve(lambda share: at_most(found, count, share), DOUBT)
    return low, high


def at_most(found: int, count: int, share: float) -> float:
    """The chance of `found` or fewer successes in `count` trials, each with the chance `share`."""
    if found >= count or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    # What lies further below the mean than twelve deviations is nothing, and may be many terms.
    first = max(0, int(count * share - 12 * math.sqrt(count * share * (1 - share)) - 12))
    if found < first:
        return 0.0
    ways = math.lgamma(count + 1)
    logs = [
        ways
        - math.lgamma(number + 1)
        - math.lgamma(count - number + 1)
        + number * math.log(share)
        + (count - number) * math.log1p(-share)
        for number in range(first, found + 1)
    ]
    highest = max(logs)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(each - highest) for each in logs))


def _ranks_at_most(count: int, share: float) -> int:
    """The most ranks whose chance to hold all successes is at most `DOUBT`."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if at_most(middle - 1, count, share) <= DOUBT:
            low = middle
        else:
            high = middle - 1
    return low


def _solve(falling: Callable[[float], float], wanted: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > wanted else (low, middle)
    return (low + high) / 2
