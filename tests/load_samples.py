"""Samples that nobody measured, for tests of what is made of them."""

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Any

from load_tests.configuration import Configuration
from load_tests.results import Hardware, Result
from load_tests.samples import Outcome, Sample
from load_tests.summing_up import lag_of, row, rows, timeline


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


def result_of(
    samples: Sequence[Sample],
    *,
    seconds: float,
    faults: Sequence[str] = (),
    **configuration: Any,
) -> Result:
    """What the runner would have written of them."""
    wanted: dict[str, Any] = {
        "host": "http://127.0.0.1:8000",
        "scenarios": {"short": 1.0, "medium": 1.0},
        "rate": 25.0,
        "seconds": seconds,
        "model": "tiny",
    }
    return Result(
        started_at="2026-01-02T03:04:05.678+00:00",
        seconds=seconds,
        invalid_because=list(faults),
        configuration=Configuration(**(wanted | configuration)),
        left_out={},
        probes=2,
        versions={"gateway": "0.1.0", "engine": "llama.cpp", "python": "3.11"},
        hardware=Hardware(
            cpu="A processor", cores=2, memory_bytes=8 * 2**30, gpu=None, system="Linux"
        ),
        total=row("all", samples, seconds),
        scenarios=rows(samples, seconds),
        timeline=timeline(samples),
        lag=lag_of(samples),
        processes=[],
    )
