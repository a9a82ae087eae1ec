"""Quantiles of a histogram's buckets, by linear interpolation as Prometheus does it. Pure."""

import math
from collections.abc import Mapping


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """The value that a `share` (0 to 1) of all observations do not exceed; None without any.

    `buckets` are cumulative counts by upper bound, infinity among them. An observation is taken to
    lie evenly between its bucket's bounds, the lowest of which is 0; what lies above the highest
    finite bound is said to be at that bound.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or bounds[-1] != math.inf:
        return None
    counts: list[float] = []
    for bound in bounds:  # read while it was written to, a histogram may fall by one
        counts.append(max(buckets[bound], counts[-1] if counts else 0.0))
    if counts[-1] <= 0:
        return None
    rank = share * counts[-1]
    place = next(place for place, count in enumerate(counts) if count >= rank)
    if place == len(bounds) - 1:
        return bounds[-2]
    if place == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    return lower if inside <= 0 else lower + (bounds[place] - lower) * (rank - below) / inside
