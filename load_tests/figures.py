"""From samples to figures: percentiles that are exact, not from buckets. Pure."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)


class Spread(Struct, frozen=True):
    """How values are spread; `percentiles` by name ("p50", "p99.9"). Times are in seconds."""

    count: int
    mean: float
    lowest: float
    highest: float
    percentiles: dict[str, float]

    @property
    def p50(self) -> float:
        return self.percentiles["p50"]

    @property
    def p95(self) -> float:
        return self.percentiles["p95"]

    @property
    def p99(self) -> float:
        return self.percentiles["p99"]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of these ordered values that `percent` of all do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    rank = math.ceil(round(percent * len(ordered), 6) / 100)
    return ordered[max(0, rank - 1)]


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of those that are there; None of none."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    return Spread(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        lowest=ordered[0],
        highest=ordered[-1],
        percentiles={f"p{each:g}": percentile(ordered, each) for each in PERCENTILES},
    )
