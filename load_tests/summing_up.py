"""From the samples of a run to its rows, its timeline, and whether it counts. Pure."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from load_tests.configuration import Configuration
from load_tests.figures import Spread, percentile, spread
from load_tests.results import LoadProcess, Row, Second
from load_tests.samples import Sample

MOST_CPU_SHARE = 0.9
ALL = "all"


def row(scenario: str, samples: Sequence[Sample], seconds: float) -> Row:
    """Of these samples, over the seconds of the run."""
    good = [sample for sample in samples if sample.outcome == "ok"]
    outcomes = Counter(sample.outcome for sample in samples)
    tokens = sum(sample.completion_tokens for sample in samples)
    return Row(
        scenario=scenario,
        count=len(samples),
        ok=outcomes["ok"],
        refused=outcomes["refused"],
        cancelled=outcomes["cancelled"],
        warm=sum(sample.is_warm for sample in samples),
        retried=sum(sample.attempt > 1 for sample in samples),
        retried_refused=sum(
            sample.attempt > 1 and sample.outcome == "refused" for sample in samples
        ),
        errors=_kinds(samples, "error"),
        refusals=_kinds(samples, "refused"),
        latency=spread(sample.latency for sample in good),
        first_token=spread(
            sample.first_token - sample.intended
            for sample in good
            if sample.first_token is not None
        ),
        gap=spread(sample.gap_mean for sample in good),
        longest_gap=spread(sample.gap_max for sample in good),
        prompt_tokens=sum(sample.prompt_tokens for sample in samples),
        completion_tokens=tokens,
        cached_tokens=sum(sample.cached_tokens for sample in samples),
        requests_per_second=outcomes["ok"] / seconds,
        tokens_per_second=tokens / seconds,
        estimated=sum(sample.tokens_estimated for sample in samples),
        stages=_stages(good),
    )


def rows(samples: Sequence[Sample], seconds: float) -> list[Row]:
    """One for each scenario, in the order of their first samples."""
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_name[sample.scenario].append(sample)
    return [row(name, found, seconds) for name, found in by_name.items()]


def timeline(samples: Sequence[Sample]) -> list[Second]:
    """Every second until the last answer."""
    ended: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        ended[int(sample.ended)].append(sample)
    due = Counter(int(sample.intended) for sample in samples)
    sent = Counter(int(sample.sent) for sample in samples)
    starts = sorted(sample.sent for sample in samples)
    ends = sorted(sample.ended for sample in samples)
    last = int(ends[-1]) if ends else -1
    return [
        _second(
            second,
            ended[second],
            due=due[second],
            sent=sent[second],
            in_flight=bisect_right(starts, second + 1) - bisect_right(ends, second + 1),
        )
        for second in range(last + 1)
    ]


def _second(second: int, ended: Sequence[Sample], *, due: int, sent: int, in_flight: int) -> Second:
    outcomes = Counter(sample.outcome for sample in ended)
    latencies = sorted(sample.latency for sample in ended if sample.outcome == "ok")
    p50, p95, p99 = (percentile(latencies, each) if latencies else None for each in (50, 95, 99))
    return Second(
        second=second,
        due=due,
        sent=sent,
        ok=outcomes["ok"],
        errors=outcomes["error"],
        refused=outcomes["refused"],
        cancelled=outcomes["cancelled"],
        in_flight=in_flight,
        tokens=sum(sample.completion_tokens for sample in ended),
        p50=p50,
        p95=p95,
        p99=p99,
    )


def lag_of(samples: Iterable[Sample]) -> Spread | None:
    """How much later than intended requests were sent."""
    return spread(sample.sent - sample.intended for sample in samples)


def faults_of(
    configuration: Configuration, lag: Spread | None, processes: Sequence[LoadProcess]
) -> list[str]:
    """Why the figures are the load tester's own and not the gateway's; empty where they count."""
    most, found = configuration.most_lag_seconds, []
    if unsent := sum(process.unsent for process in processes):
        found.append(
            f"{unsent} arrivals were not sent: {configuration.most_in_flight} requests were under "
            "way already (--max-in-flight)"
        )
    if lag is not None and lag.p99 > most:
        found.append(f"requests were sent {_ms(lag.p99)} late (p99; at most {_ms(most)})")
    for number, process in enumerate(processes):
        if process.loop_delay is not None and process.loop_delay.p99 > most:
            late = _ms(process.loop_delay.p99)
            found.append(f"process {number} was {late} late (p99; at most {_ms(most)})")
        if process.cpu_share > MOST_CPU_SHARE:
            found.append(
                f"process {number} used {process.cpu_share:.0%} of a core: use more --processes"
            )
    return found


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _kinds(samples: Iterable[Sample], outcome: str) -> dict[str, int]:
    kinds = (sample.error or "unknown" for sample in samples if sample.outcome == outcome)
    return dict(Counter(kinds).most_common())


def _stages(samples: Iterable[Sample]) -> dict[str, Spread]:
    values: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, seconds in sample.stages.items():
            values[name].append(seconds)
        if sample.prompt_seconds is not None:
            values["prompt"].append(sample.prompt_seconds)
        if sample.decode_seconds is not None:
            values["decode"].append(sample.decode_seconds)
    return {name: found for name, each in values.items() if (found := spread(each))}
