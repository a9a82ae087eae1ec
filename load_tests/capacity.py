"""The knee: the highest Poisson rate at which 95 % of requests meet their target.

Rates are doubled until one fails, then the gap between the highest that held and the lowest that
failed is halved, then both ends are asked again: what one run says near the knee is chance. Which
rate comes next and for how long is decided by pure functions of the steps so far.

A server that is asked a little too much falls behind slowly: at 5 % too much its queue grows by
50 ms a second. So a step lasts the longer the smaller the gap is, or short runs would all seem to
hold. Below 10 requests per second even the longest steps have so few requests that one search in
ten is wrong by more than 10 %.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from load_tests.figures import percentile
from load_tests.gate import is_counted, is_shed
from load_tests.results import Hardware
from load_tests.samples import Sample
from monitoring.slo import Workload

SCHEMA_VERSION = 1

LEAST_SHARE = 0.95
"""Of the requests; targets above (p99) need more requests than a short step has."""

CLIMB, CLIMB_AGAIN = 2.0, 1.25
"""The factor between rates: at first, and after an end of the gap was found to be wrong."""

_BETWEEN = 5.0
"""Seconds from step to step, until the last answers are there."""

HEADROOM = 0.9
"""Of the knee: at the knee itself a target is just met, so that every other run would fail."""

Phase = Literal["climb", "descend", "halve", "repeat"]
Ended = Literal["found", "time", "highest", "none", "interrupted"]


class Plan(Struct, frozen=True, kw_only=True):
    """How to search. `precision` is of the rate; a step has at least `requests` in it. `tries`: so
    often is a rate asked at which the load tester was late, before that is its limit."""

    first_rate: float = 4.0
    highest_rate: float = 2000.0
    lowest_rate: float = 0.1
    precision: float = 0.03
    repeats: int = 2
    tries: int = 3
    requests: int = 60
    least_seconds: float = 5.0
    most_seconds: float = 45.0
    settle_seconds: float = 1.0
    total_seconds: float = 420.0


class Target(Struct, frozen=True):
    """So large a share of requests must be answered well within so many seconds."""

    share: float
    seconds: float

    @property
    def name(self) -> str:
        return f"p{100 * self.share:g} in {1000 * self.seconds:,.0f} ms"


class Step(Struct, frozen=True, kw_only=True):
    """One open-loop run. Latencies are of answers that went well, None where there was none.

    `meets` has the share of requests that meet each target, in the order of the targets. A step
    that is `invalid_because` the load tester was late says nothing, whatever it measured.
    """

    rate: float
    seconds: float
    phase: Phase
    count: int
    meets: list[float]
    p50: float | None
    p95: float | None
    p99: float | None
    throughput: float
    """Answers per second, in the seconds in which requests were sent."""
    goodput: float
    """Answers per second that meet the last target."""
    errors: int
    refused: int
    invalid_because: list[str]


class Capacity(Struct, frozen=True, kw_only=True):
    """What a search found. `rate` is the highest that held, `above` the lowest that did not.

    `repeated` is how often `rate` was measured. `ended`: `found`; `time` ran out before; `highest`:
    no rate failed; `none`: no rate held. `limited_by` says what failed at `above`.
    """

    schema_version: int = SCHEMA_VERSION
    workload: str
    targets: list[Target]
    rate: float | None
    above: float | None
    ended: Ended
    repeated: int
    limited_by: str
    seconds: float
    plan: Plan
    steps: list[Step]
    started_at: str = ""
    host: str = ""
    versions: dict[str, str] = {}
    hardware: Hardware | None = None

    @property
    def rate_with_headroom(self) -> float | None:
        """What a gate can ask for and not fail by chance."""
        return None if self.rate is None else HEADROOM * self.rate


class Next(Struct, frozen=True):
    """The step to make."""

    rate: float
    seconds: float
    phase: Phase


class _At(Struct, frozen=True):
    """All steps at one rate, together."""

    rate: float
    runs: int
    holds: bool


Measured = tuple[Sequence[Sample], Sequence[str]]
"""Samples, and why they do not count."""

Measure = Callable[[float, float, int], Measured]
"""A run at a rate, for so many seconds, with a seed. Returns when all requests have ended."""


def targets_of(workload: Workload) -> list[Target]:
    """Those of a workload that a short run can tell about, the strictest last."""
    found = [
        Target(float(name.removeprefix("p")) / 100, milliseconds / 1000)
        for name, milliseconds in workload.latency_ms.items()
    ]
    found.sort(key=lambda target: target.share)
    return [each for each in found if each.share <= LEAST_SHARE] or [
        Target(LEAST_SHARE, found[0].seconds)
    ]


def find(
    measure: Measure,
    workload: tuple[str, Sequence[Target]],
    plan: Plan,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    told: Callable[[Step], object] = lambda _: None,
) -> Capacity:
    """Search. `told` is told each step when it is done. Raises what `measure` raises; interrupted
    after a step, it returns what the finished ones say.
    """
    (name, targets), began, steps = workload, clock(), list[Step]()
    while True:
        following = next_step(steps, targets, plan)
        left = plan.total_seconds - (clock() - began)
        repeat = _unrepeated(steps, targets, plan)
        both = following.seconds + repeat.seconds + _BETWEEN if following and repeat else 0.0
        if repeat and repeat.seconds <= left < both:
            following = repeat  # a rate that held once is worth less than a wider gap
        if following is None or following.seconds > left:
            break
        try:
            samples, faults = measure(following.rate, following.seconds, len(steps) + 1)
            steps.append(step_of(following, samples, targets, faults))
            told(steps[-1])
            sleep(plan.settle_seconds)
        except KeyboardInterrupt:
            if not steps:
                raise
            capacity = capacity_of(steps, name, targets, plan, seconds=clock() - began)
            return replace(capacity, ended="interrupted")
    return capacity_of(steps, name, targets, plan, seconds=clock() - began)


def next_step(steps: Sequence[Step], targets: Sequence[Target], plan: Plan) -> Next | None:
    """What to ask after these steps; None when there is nothing left to ask."""
    if steps and _is_to_be_tried_again(steps, plan):
        return Next(steps[-1].rate, steps[-1].seconds, "repeat")
    held, failed = _gap(steps, targets)
    slowest = targets[-1].seconds
    if held is not None and failed is not None:
        return _between(held, failed, slowest, plan)
    if failed is not None:
        if failed.rate <= plan.lowest_rate:
            return None
        return _next(max(plan.lowest_rate, failed.rate / CLIMB), "descend", CLIMB, slowest, plan)
    if held is not None and held.rate >= plan.highest_rate:
        return None
    was_wrong = any(not (step.invalid_because or _holds([step], targets)) for step in steps)
    factor = CLIMB_AGAIN if was_wrong else CLIMB
    rate = plan.first_rate if held is None else factor * held.rate
    return _next(min(plan.highest_rate, rate), "climb", factor, slowest, plan)


def step_of(
    asked: Next, samples: Iterable[Sample], targets: Sequence[Target], faults: Sequence[str]
) -> Step:
    """What a run came to."""
    counted = [sample for sample in samples if is_counted(sample)]
    good = [sample for sample in counted if sample.outcome == "ok"]
    latencies = sorted(sample.latency for sample in good)
    in_time = [sample for sample in good if sample.ended <= asked.seconds]
    slowest = targets[-1].seconds
    p50, p95, p99 = (percentile(latencies, each) if latencies else None for each in (50, 95, 99))
    return Step(
        rate=asked.rate,
        seconds=asked.seconds,
        phase=asked.phase,
        count=len(counted),
        meets=[
            sum(latency <= target.seconds for latency in latencies) / max(1, len(counted))
            for target in targets
        ],
        p50=p50,
        p95=p95,
        p99=p99,
        throughput=len(in_time) / asked.seconds,
        goodput=sum(sample.latency <= slowest for sample in in_time) / asked.seconds,
        errors=sum(sample.outcome == "error" for sample in counted),
        refused=sum(is_shed(sample) for sample in counted),
        invalid_because=list(faults),
    )


def capacity_of(
    steps: Sequence[Step],
    workload: str,
    targets: Sequence[Target],
    plan: Plan,
    *,
    seconds: float,
) -> Capacity:
    """The result of these steps."""
    held, failed = _gap(steps, targets)
    ended: Ended = "found"
    if next_step(steps, targets, plan) is not None:
        ended = "time"
    elif held is None:
        ended = "none"
    elif failed is None:
        ended = "highest"
    return Capacity(
        workload=workload,
        targets=list(targets),
        rate=held.rate if held else None,
        above=failed.rate if failed else None,
        ended=ended,
        repeated=held.runs if held else 0,
        limited_by=_limit(steps, failed.rate, targets) if failed else "nothing that was asked",
        seconds=seconds,
        plan=plan,
        steps=list(steps),
    )


def _unrepeated(steps: Sequence[Step], targets: Sequence[Target], plan: Plan) -> Next | None:
    """The repetition of the highest rate that held, if that is to come yet."""
    held, _ = _gap(steps, targets)
    if held is None or held.runs >= plan.repeats:
        return None
    return _next(held.rate, "repeat", 1 + plan.precision, targets[-1].seconds, plan)


def _is_to_be_tried_again(steps: Sequence[Step], plan: Plan) -> bool:
    """The load tester was late: by chance, unless it is so each time."""
    runs = [step for step in steps if step.rate == steps[-1].rate]
    return all(run.invalid_because for run in runs) and len(runs) < plan.tries


def _between(held: _At, failed: _At, slowest: float, plan: Plan) -> Next | None:
    gap = failed.rate / held.rate
    if gap > 1 + plan.precision:
        middle = math.sqrt(held.rate * failed.rate)
        return _next(middle, "halve", math.sqrt(gap), slowest, plan)
    for end in (held, failed):
        if end.runs < plan.repeats:
            return _next(end.rate, "repeat", 1 + plan.precision, slowest, plan)
    return None


def _next(rate: float, phase: Phase, factor: float, slowest: float, plan: Plan) -> Next:
    """As long as it takes to tell `rate` from one that is `factor` higher.

    A server must have the time to fall behind by more than its target, and the number of arrivals,
    which is chance (1/sqrt(n)), must be known to half of the difference.
    """
    difference = factor - 1
    to_see = 3 * slowest / difference
    requests = max(plan.requests, 4 / difference**2)
    seconds = max(plan.least_seconds, requests / rate, to_see)
    return Next(rate, min(plan.most_seconds, seconds), phase)


def _gap(steps: Sequence[Step], targets: Sequence[Target]) -> tuple[_At | None, _At | None]:
    """The lowest rate that fails, and the highest below it that holds."""
    rates = sorted({step.rate for step in steps})
    every = []
    for rate in rates:
        runs = [step for step in steps if step.rate == rate]
        every.append(_At(rate, len(runs), _holds(runs, targets)))
    failed = next((each for each in every if not each.holds), None)
    below = [each for each in every if failed is None or each.rate < failed.rate]
    return (below[-1] if below else None), failed


def _shares(runs: Sequence[Step], targets: Sequence[Target]) -> list[float]:
    """Of the requests of all runs; what lasted longer has more to say."""
    count = max(1, sum(run.count for run in runs))
    return [
        sum(run.meets[number] * run.count for run in runs) / count for number in range(len(targets))
    ]


def _holds(runs: Sequence[Step], targets: Sequence[Target]) -> bool:
    valid = [run for run in runs if not run.invalid_because]
    if not any(run.count for run in valid):
        return False
    shares = _shares(valid, targets)
    return all(share >= target.share for share, target in zip(shares, targets, strict=True))


def _limit(steps: Sequence[Step], rate: float, targets: Sequence[Target]) -> str:
    every = [step for step in steps if step.rate == rate]
    runs = [run for run in every if not run.invalid_because]
    if not runs:
        return f"the load tester itself: {every[-1].invalid_because[0]}"
    shares = _shares(runs, targets)
    missed = [
        f"{share:.1%} met {target.name}"
        for share, target in zip(shares, targets, strict=True)
        if share < target.share
    ]
    bad = sum(run.errors + run.refused for run in runs)
    return "; ".join(missed) + (f", {bad} errors and refusals" if bad else "")
