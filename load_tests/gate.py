"""Does `configs/slo.yaml` hold? From the samples of a run to a verdict. Pure.

What counts is what rules and alerts count: latency is of answers that went well, from the
intended time. An error is one of the stack's, and so is a request that was shed (`overloaded`).
What an app's own limit refuses and what the scenario itself left is no request of the promise.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from load_tests.certainty import needed_for, percentile_range, share_range
from load_tests.figures import percentile
from load_tests.samples import Sample
from monitoring.slo import Workload

State = Literal["holds", "fails", "cannot tell", "not asked"]
Unit = Literal["ms", "/s", "share"]

APP_LIMIT = "rate_limit_exceeded"
"""The error code of a request that its app's own limits refused."""

KEPT_UP = 0.95
"""Of what was due, as much must be answered in time for a throughput to count as reached: what is
still under way at the end is less."""

OF_FULL_RATE = 0.999


class Check(Struct, frozen=True, kw_only=True):
    """One target: what was measured and what the truth may be, between `lower` and `upper`.

    `needed` is how many requests it takes to tell; `is_sure` that the whole range is on one side.
    """

    name: str
    unit: Unit
    target: float
    measured: float | None
    state: State
    lower: float | None = None
    upper: float | None = None
    count: int = 0
    needed: int = 0
    note: str = ""

    @property
    def is_sure(self) -> bool:
        if self.state == "holds":
            return self.upper is not None and self.upper <= self.target
        return self.state == "fails" and self.lower is not None and self.lower > self.target


class Verdict(Struct, frozen=True, kw_only=True):
    """Of one workload. `state`: `fails` if a check fails, else `cannot tell` if one cannot.

    `rate` is what the run asked for, in requests per second; None in a closed loop.
    """

    workload: str
    state: State
    rate: float | None
    checks: list[Check]
    counted: int
    limited: int
    cancelled: int
    invalid_because: list[str]

    @property
    def holds(self) -> bool:
        return self.state == "holds" and not self.invalid_because

    @property
    def exit_code(self) -> int:
        """0: it holds, 1: it does not or nobody can tell, 2: the run says nothing."""
        if self.invalid_because or not self.counted:
            return 2
        return 0 if self.holds else 1


def is_limited(sample: Sample) -> bool:
    """Whether a limit of its app refused it."""
    return sample.outcome == "refused" and (sample.error or "").endswith(APP_LIMIT)


def is_shed(sample: Sample) -> bool:
    """Whether it was refused since too much was going on."""
    return sample.outcome == "refused" and not is_limited(sample)


def is_counted(sample: Sample) -> bool:
    """Whether the promise is about it."""
    return sample.outcome != "cancelled" and not is_limited(sample)


def judge(
    name: str,
    workload: Workload,
    samples: Iterable[Sample],
    *,
    rate: float | None,
    seconds: float,
    invalid_because: Sequence[str] = (),
) -> Verdict:
    """Hold the samples of the workload's scenarios against its targets.

    `rate` is what the run asked for of these scenarios, `seconds` how long it asked.
    """
    own = [sample for sample in samples if sample.scenario in workload.scenarios]
    counted = [sample for sample in own if is_counted(sample)]
    latencies = sorted(sample.latency for sample in counted if sample.outcome == "ok")
    checks = [
        _latency(which, target, latencies)
        for which, target in sorted(workload.latency_ms.items(), key=lambda each: each[1])
    ]
    checks.append(_errors(workload.error_rate, counted))
    checks.append(_throughput(workload.requests_per_second, counted, rate, seconds))
    return Verdict(
        workload=name,
        state=_together(checks),
        rate=rate,
        checks=checks,
        counted=len(counted),
        limited=sum(is_limited(sample) for sample in own),
        cancelled=sum(sample.outcome == "cancelled" for sample in own),
        invalid_because=list(invalid_because),
    )


def needed_samples(workload: Workload) -> int:
    """So many requests a run must have to tell about every target."""
    percents = [_percent(name) for name in workload.latency_ms]
    return max(*map(needed_for, percents), _needed_for_errors(workload.error_rate))


def _percent(name: str) -> float:
    return float(name.removeprefix("p"))


def _together(checks: Iterable[Check]) -> State:
    states = {check.state for check in checks}
    if "fails" in states:
        return "fails"
    return "cannot tell" if "cannot tell" in states else "holds"


def _latency(name: str, target_ms: float, ordered: Sequence[float]) -> Check:
    percent = _percent(name)
    needed = needed_for(percent)
    lower, upper = percentile_range(ordered, percent)
    measured: float | None = None
    state: State = "cannot tell"
    note = "no request was answered"
    if ordered:
        measured, note = 1000 * percentile(ordered, percent), ""
        state = "holds" if measured <= target_ms else "fails"
        if len(ordered) < needed:
            # Few that are slow prove as little as few that are fast, unless even the bound is slow.
            note = f"{len(ordered)} answers, {needed} are needed"
            is_slow = lower is not None and 1000 * lower > target_ms
            state = "fails" if is_slow else "cannot tell"
    return Check(
        name=f"latency {name}",
        unit="ms",
        target=target_ms,
        measured=measured,
        state=state,
        lower=None if lower is None else 1000 * lower,
        upper=None if upper is None else 1000 * upper,
        count=len(ordered),
        needed=needed,
        note=note,
    )


def _needed_for_errors(rate: float) -> int:
    """With fewer, one error would be above the target, and none would say nothing."""
    return round(1 / rate)


def _errors(target: float, counted: Sequence[Sample]) -> Check:
    bad = sum(sample.outcome != "ok" for sample in counted)
    needed = _needed_for_errors(target)
    measured = bad / len(counted) if counted else None
    lower, upper = share_range(bad, len(counted))
    state: State = "fails"
    note = f"{bad} of {len(counted)}"
    if measured is not None and measured <= target:
        state = "holds"
    if len(counted) < needed and lower <= target:
        state, note = "cannot tell", f"{note} requests; {needed} are needed"
    return Check(
        name="error rate",
        unit="share",
        target=target,
        measured=measured,
        state=state,
        lower=lower,
        upper=upper,
        count=len(counted),
        needed=needed,
        note=note,
    )


def _throughput(
    target: float, counted: Sequence[Sample], rate: float | None, seconds: float
) -> Check:
    """Reached where as much was asked for and answered; the arrivals of a Poisson process may be a
    little fewer than the rate says, which is no fault of who answers."""
    answered = sum(sample.outcome == "ok" and sample.ended <= seconds for sample in counted)
    due = sum(sample.intended <= seconds for sample in counted)
    measured = answered / seconds if seconds > 0 else None
    state: State = "not asked"
    note = "users who wait for their answers ask for no rate"
    if measured is not None and measured >= target:
        state, note = "holds", ""
    elif rate is not None and rate < OF_FULL_RATE * target:
        note = f"the run asked for {rate:g}/s"
    elif rate is not None:
        state = "holds" if due and answered >= KEPT_UP * due else "fails"
        note = f"{answered} of {due} that were due"
    return Check(
        name="requests per second",
        unit="/s",
        target=target,
        measured=measured,
        state=state,
        count=len(counted),
        note=note,
    )
