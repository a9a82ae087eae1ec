"""The command's verbs beyond one run: `--slo`, `--find-capacity`, `--compare`, and their words."""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import structs

from load_tests.capacity import Capacity, Measured, Plan, Step, find, targets_of
from load_tests.comparing import compare, table
from load_tests.configuration import Configuration
from load_tests.gate import Verdict, needed_samples
from load_tests.machine import hardware
from load_tests.report import words
from load_tests.report.writing import CAPACITY, CapacityError, read_capacity
from load_tests.results import Result, ResultError, read_result, read_samples
from load_tests.running import WAS_INTERRUPTED
from load_tests.samples import Sample
from monitoring.slo import Slo, Workload

HOLDS, FAILS, SAYS_NOTHING = 0, 1, 2

LEAST_SECONDS = 60.0
SPARE = 1.2
"""More requests than a verdict needs, since arrivals are chance and some may be refused."""

STEP_TIME_OUT = 30.0
"""Of a request in a search: one that takes longer has missed its target long before."""

FOUND = "found"
MOST_RATE = 100_000.0

Runs = Callable[[Configuration], tuple[Result, list[Sample]]]


def number_above(least: float, most: float = math.inf) -> Callable[[str], float]:
    """What an option may be: a number above `least`. It raises `ArgumentTypeError`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value <= most and math.isfinite(value)):
            bound = f" and at most {most:,.0f}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text!r} is no number above {least:g}{bound}")
        return value

    return number


def rate_or_found(text: str) -> float | str:
    """What `--rate` may be. Raises `ArgumentTypeError`."""
    return FOUND if text == FOUND else number_above(0, MOST_RATE)(text)


def workload_of(slo: Slo, name: str | None) -> tuple[str, Workload]:
    """The one that is named, else the first. Raises `ValueError`."""
    wanted = name or next(iter(slo.workloads))
    if wanted not in slo.workloads:
        raise ValueError(f"slo.yaml has no workload {wanted}: {', '.join(slo.workloads)}")
    return wanted, slo.workloads[wanted]


def found_rate(folder: Path, host: str, workload: str) -> tuple[float, str]:
    """What the last search found here for this gateway, less headroom, and where it stands.

    Raises `ValueError` where there is none: what another machine can do says nothing about this.
    """
    here, found = hardware(), []
    for path in folder.glob(f"*/{CAPACITY}"):
        try:
            capacity = read_capacity(path)
        except CapacityError:
            continue  # of another version
        is_ours = (capacity.host, capacity.workload, capacity.hardware) == (host, workload, here)
        rate = capacity.rate_with_headroom
        if is_ours and rate is not None and capacity.ended != "interrupted":
            found.append((capacity.started_at, str(path), rate))
    if not found:
        raise ValueError(
            f"no capacity of {host} was found on this machine yet: "
            "run `python -m load_tests --find-capacity` first, or name a --rate"
        )
    _, where, rate = max(found)
    return round(rate, 2), where


def slo_seconds(workload: Workload, rate: float) -> float:
    """How long a run at this rate must be to tell about every target."""
    return max(LEAST_SECONDS, round(SPARE * needed_samples(workload) / rate + 1))


def search(
    runs: Runs,
    configuration: Configuration,
    workload: tuple[str, Workload],
    plan: Plan,
    *,
    told: Callable[[Step], object],
    versions: dict[str, str],
) -> Capacity:
    """Find the knee of the gateway that the configuration names. Raises what `runs` raises.

    A step that is interrupted ends the search: with what the steps before it say, and without any
    by `KeyboardInterrupt`.
    """
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")

    def measure(rate: float, seconds: float, seed: int) -> Measured:
        step = structs.replace(
            configuration,
            rate=rate,
            concurrency=None,
            requests=None,
            seconds=seconds,
            seed=configuration.seed + seed,
            salt=f"{configuration.salt}-{seed}",
            total_seconds=min(configuration.total_seconds, STEP_TIME_OUT),
        )
        result, samples = runs(step)
        if WAS_INTERRUPTED in result.invalid_because:
            raise KeyboardInterrupt
        return samples, result.invalid_because

    capacity = find(
        measure,
        (workload[0], targets_of(workload[1])),
        plan,
        clock=time.monotonic,
        sleep=time.sleep,
        told=told,
    )
    return structs.replace(
        capacity,
        started_at=started_at,
        host=configuration.host,
        versions=versions,
        hardware=hardware(),
    )


def step_line(step: Step) -> str:
    """Of a terminal."""
    shares = ", ".join(words.share(share) for share in step.meets)
    late = f", {step.invalid_because[0]}" if step.invalid_because else ""
    return (
        f"{step.phase:>8} {step.rate:7.2f}/s for {step.seconds:4.0f} s: {step.count:6} requests, "
        f"p50 {words.milliseconds(step.p50)}, p95 {words.milliseconds(step.p95)}, "
        f"in time {shares}{late}"
    )


def verdict_lines(verdict: Verdict) -> str:
    """Of a terminal."""
    lines = ["", words.headline(verdict)]
    for check in verdict.checks:
        sure = " (sure)" if check.is_sure else ""
        lines.append(
            f"  {check.name:20} {words.of_check(check, check.measured):>10}  target "
            f"{words.of_check(check, check.target):>9}  {check.state}{sure}"
            + (f": {check.note}" if check.note else "")
        )
    lines += [f"  NOT VALID: {reason}" for reason in verdict.invalid_because]
    return "\n".join(lines)


def compared(paths: Sequence[Path], *, is_forced: bool) -> tuple[str, int]:
    """What to print of two runs, and the exit code: 1 worse, 2 not to be compared."""
    try:
        old, new = (_run_at(path) for path in paths)
    except (ResultError, msgspec.ValidationError) as exc:
        return f"error: {exc}", SAYS_NOTHING
    comparison = compare(old, new)
    if (comparison.differences or comparison.invalid) and not is_forced:
        why = "\n".join(f"  {each}" for each in (*comparison.differences, *comparison.invalid))
        return f"error: these runs cannot be compared (--force does it):\n{why}", SAYS_NOTHING
    if not comparison.rows:
        return "error: these runs have no scenario in common", SAYS_NOTHING
    return table(comparison), FAILS if comparison.is_worse else HOLDS


def _run_at(path: Path) -> tuple[Result, list[Sample]]:
    result = read_result(path)
    folder = path if path.is_dir() else path.parent
    return result, list(read_samples(folder / result.samples_file))
