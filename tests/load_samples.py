"""Samples that nobody measured, for tests of what is made of them."""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any

from load_tests.samples import Outcome, Sample


def sample(at: float = 0.0, latency: float = 0.1, outcome: Outcome = "ok", **more: Any) -> Sample:
    """One that was sent when it should have been."""
    fields: dict[str, Any] = {"scenario": "short", "intended": at, "sent": at} | more
    return Sample(ended=at + latency, outcome=outcome, **fields)


def evenly(count: int, rate: float, latency: Callable[[int], float], **more: Any) -> list[Sample]:
    """So many, one after the other at a rate."""
    return [sample(number / rate, latency(number), **more) for number in range(count)]


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Of a Poisson process."""
    random = Random(seed)
    now = random.expovariate(rate)
    while now < seconds:
        yield now
        now += random.expovariate(rate)


def served(times: Sequence[float], servers: int, service: Callable[[], float]) -> list[Sample]:
    """Requests in the order of their arrival, each by the first of the servers that is free."""
    free, found = [0.0] * servers, []
    for at in times:
        begins = max(at, heappop(free))
        ends = begins + service()
        heappush(free, ends)
        found.append(
            sample(
                at,
                ends - at,
                first_token=begins + (ends - begins) / 4,
                completion_tokens=16,
                stages={"queue": begins - at, "engine": (ends - begins) / 4, "gateway": 0.001},
            )
        )
    return found
