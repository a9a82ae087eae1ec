"""Reports of runs that nobody made, of every kind that a page must be able to show."""

from pathlib import Path
from random import Random

from load_tests.capacity import Capacity, Plan, Target, find
from load_tests.report.writing import write_report
from load_tests.samples import Sample
from monitoring.slo import load_slo
from tests.load_samples import arrivals, result_of, sample, served

REPORTS = ("kept", "broken", "unanswered", "fast", "knee")
LONG_CODE = "503 engine_unavailable_with_a_rather_long_code_of_an_error_that_nobody_has_seen"


def answers(factor: float, count: int = 1500, rate: float = 25.0) -> list[Sample]:
    """Short and medium ones, `factor` times as slow as is good."""
    random, found = Random(4), []
    for number in range(count):
        is_short, at = bool(number % 2), number / rate
        latency = factor * random.lognormvariate(-1.6, 0.4) * (1 if is_short else 1.6)
        found.append(
            sample(
                at,
                latency,
                scenario="short" if is_short else "medium",
                first_token=at + latency * 0.3,
                prompt_tokens=40,
                completion_tokens=16,
                cached_tokens=4,
                gap_mean=latency * 0.04,
                gap_max=latency * 0.1,
                stages={"queue": 0.01 * factor, "engine": latency * 0.28, "gateway": 0.0012},
                prompt_seconds=latency * 0.2,
                decode_seconds=latency * 0.65,
            )
        )
    return found


def knee() -> Capacity:
    """Of four slots that take 0.1 seconds."""
    now = [0.0]

    def measure(rate: float, seconds: float, seed: int) -> tuple[list[Sample], list[str]]:
        found = served(list(arrivals(rate, seconds, seed)), 4, lambda: 0.1)
        now[0] += max((each.ended for each in found), default=seconds)
        return found, []

    targets = (Target(0.5, 0.5), Target(0.95, 1.0))
    return find(measure, ("typical", targets), Plan(), clock=lambda: now[0], sleep=id)


def write_reports(folder: Path) -> None:
    """A folder for each of `REPORTS`."""
    slo, capacity = load_slo(), knee()
    good = answers(1)
    result = result_of(good, seconds=60)
    write_report(folder / "kept", slo, result=result, samples=good, capacity=capacity)
    bad = answers(2.4)
    bad += [sample(n / 3, 0.02, "error", error="connect") for n in range(20)]
    bad += [sample(n / 3, 0.02, "refused", error="429 overloaded") for n in range(50)]
    bad += [sample(3, 1, "error", error=LONG_CODE)]
    late = ["process 0 used 97 % of a core: use more --processes"]
    result = result_of(bad, seconds=60, faults=late)
    write_report(folder / "broken", slo, result=result, samples=bad)
    none = [sample(n / 25, 0.01, "error", error="connect") for n in range(100)]
    write_report(folder / "unanswered", slo, result=result_of(none, seconds=4), samples=none)
    fast = answers(0.02, 200)
    write_report(folder / "fast", slo, result=result_of(fast, seconds=8), samples=fast)
    write_report(folder / "knee", slo, capacity=capacity)
