"""Is one run worse than another? Changes beyond what chance explains. Pure.

Chance comes from the samples themselves: they are drawn again in blocks of neighbours, since a slow
moment slows many requests, and the middle 95 % of the differences is the noise. A change counts as
worse or better if the noise does not reach zero and the change is not too small to matter.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal

from msgspec import Struct, structs

from load_tests.answers import plain
from load_tests.certainty import share_range
from load_tests.configuration import Configuration
from load_tests.figures import percentile
from load_tests.gate import is_counted
from load_tests.results import Result
from load_tests.samples import Sample

DRAWS = 200
BLOCKS = 40
"""About so many blocks in a run; fewer would be too few to draw from."""

LEAST_RELATIVE = 0.03
"""Smaller changes are no news, however sure they are."""

MOST_DIFFERENCE = 200
"""Letters of what a terminal shows of one."""

FREE = frozenset({"host", "salt", "processes", "most_in_flight", "most_lag_seconds"})
"""What two runs may differ in, and say the same. What was found out of the gateway
(`tokens_per_word`, `takes_ignore_eos`) shapes the requests and may not."""

Change = Literal["worse", "better", "same", "cannot tell"]
Value = Callable[[Sample], float | None]
Pair = tuple[Sequence[Sample], Sequence[Sample]]
Blocks = list[list[float]]


class Compared(Struct, frozen=True, kw_only=True):
    """One figure of one scenario. `lower` and `upper` bound the true relative change.

    Latencies are in seconds; errors are a share, whose change is absolute.
    """

    scenario: str
    figure: str
    old: float | None
    new: float | None
    change: float | None
    lower: float | None
    upper: float | None
    verdict: Change
    note: str = ""


class Comparison(Struct, frozen=True, kw_only=True):
    """Two runs. Not comparable: `differences` says in what they were not the same."""

    differences: list[str]
    invalid: list[str]
    rows: list[Compared]

    @property
    def is_worse(self) -> bool:
        return any(row.verdict == "worse" for row in self.rows)


def _latency(sample: Sample) -> float | None:
    return sample.latency


def _first_token(sample: Sample) -> float | None:
    return None if sample.first_token is None else sample.first_token - sample.intended


def _gap(sample: Sample) -> float | None:
    return sample.gap_mean


FIGURES: Mapping[str, tuple[Value, float, int]] = {
    "latency p50": (_latency, 50, 20),
    "latency p95": (_latency, 95, 60),
    "latency p99": (_latency, 99, 300),
    "first token p50": (_first_token, 50, 20),
    "first token p95": (_first_token, 95, 60),
    "gap p50": (_gap, 50, 20),
}
"""Of which value of an answer that went well, which percentile, and how many answers it takes."""


def differences(old: Configuration, new: Configuration) -> list[str]:
    """In what the configurations differ that makes the figures differ."""
    one, other = structs.asdict(old), structs.asdict(new)
    return [
        plain(f"{name}: {one[name]} and {other[name]}", MOST_DIFFERENCE)
        for name in one
        if name not in FREE and one[name] != other[name]
    ]


def compare(
    old: tuple[Result, Sequence[Sample]], new: tuple[Result, Sequence[Sample]]
) -> Comparison:
    """Every figure of every scenario that both runs had."""
    found = differences(old[0].configuration, new[0].configuration)
    if old[0].hardware != new[0].hardware:
        found.append("hardware: the runs came from different machines")
    invalid = [
        f"the {name} run: {reason}"
        for name, (result, _) in (("old", old), ("new", new))
        for reason in result.invalid_because
    ]
    names = [row.scenario for row in old[0].scenarios]
    both = [name for name in names if name in {row.scenario for row in new[0].scenarios}]
    rows = [row for name in both for row in _rows(name, (_of(name, old[1]), _of(name, new[1])))]
    return Comparison(differences=found, invalid=invalid, rows=rows)


def _of(name: str, samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.scenario == name]


def _rows(scenario: str, pair: Pair) -> list[Compared]:
    rows = []
    for name, (value, percent, needed) in FIGURES.items():
        old, new = (_blocks(samples, value) for samples in pair)
        if any(old) or any(new):
            rows.append(_compared((scenario, name), (old, new), percent, needed))
    return [*rows, _errors(scenario, pair)]


def _compared(
    names: tuple[str, str], pair: tuple[Blocks, Blocks], percent: float, needed: int
) -> Compared:
    old, new = (_percentile(blocks, percent) for blocks in pair)
    fewest = min(sum(map(len, blocks)) for blocks in pair)
    change = lower = upper = None
    verdict: Change = "cannot tell"
    note = f"{fewest} answers, {needed} are needed"
    if old and new is not None and fewest >= needed:
        change, note, verdict = new / old - 1, "", "same"
        lower, upper = _noise(pair, percent, "/".join(names))
        if lower > 0 and change > LEAST_RELATIVE:
            verdict = "worse"
        elif upper < 0 and change < -LEAST_RELATIVE:
            verdict = "better"
    return Compared(
        scenario=names[0],
        figure=names[1],
        old=old,
        new=new,
        change=change,
        lower=lower,
        upper=upper,
        verdict=verdict,
        note=note,
    )


def _errors(scenario: str, pair: Pair) -> Compared:
    """Of what the promise is about; worse if the ranges of both shares do not touch."""
    counted = [[sample for sample in samples if is_counted(sample)] for samples in pair]
    bad = [sum(sample.outcome != "ok" for sample in samples) for samples in counted]
    shares = [count / max(1, len(samples)) for count, samples in zip(bad, counted, strict=True)]
    ranges = [share_range(count, len(samples)) for count, samples in zip(bad, counted, strict=True)]
    lower, upper = ranges[1][0] - ranges[0][1], ranges[1][1] - ranges[0][0]
    verdict: Change = "worse" if lower > 0 else "better" if upper < 0 else "same"
    return Compared(
        scenario=scenario,
        figure="error rate",
        old=shares[0],
        new=shares[1],
        change=shares[1] - shares[0],
        lower=lower,
        upper=upper,
        verdict=verdict,
    )


def _noise(pair: tuple[Blocks, Blocks], percent: float, seed: str) -> tuple[float, float]:
    """Where the true relative change lies, by drawing blocks of each run again and again."""
    random = Random(seed)  # noqa: S311
    changes = []
    for _ in range(DRAWS):
        old, new = (_percentile(random.choices(blocks, k=len(blocks)), percent) for blocks in pair)
        if old and new is not None:
            changes.append(new / old - 1)
    changes.sort()
    return percentile(changes, 2.5), percentile(changes, 97.5)


def _percentile(blocks: Blocks, percent: float) -> float | None:
    ordered = sorted(itertools.chain.from_iterable(blocks))
    return percentile(ordered, percent) if ordered else None


def _blocks(samples: Sequence[Sample], value: Value) -> Blocks:
    """The values of answers that went well, those of neighbours in time together."""
    ordered = sorted(
        (sample for sample in samples if sample.outcome == "ok"), key=lambda each: each.intended
    )
    values = [found for sample in ordered if (found := value(sample)) is not None]
    size = max(1, math.ceil(len(values) / BLOCKS))
    return [values[at : at + size] for at in range(0, len(values), size)]


def table(comparison: Comparison) -> str:
    """For a terminal: a line for each figure, then what stands against the comparison."""
    lines = [("scenario", "figure", "old", "new", "change", "noise", "")]
    lines += [_cells(row) for row in comparison.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            cell.ljust(width) if number in (0, 1, 6) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    shown += [f"  NOT THE SAME: {each}" for each in comparison.differences]
    shown += [f"  NOT VALID: {each}" for each in comparison.invalid]
    return "\n".join(shown)


def _cells(row: Compared) -> tuple[str, str, str, str, str, str, str]:
    is_share = row.figure == "error rate"

    def value(found: float | None) -> str:
        if found is None:
            return "-"
        return f"{found:.2%}" if is_share else f"{1000 * found:,.1f} ms"

    def signed(found: float | None) -> str:
        if found is None:
            return "-"
        return f"{100 * found:+.2f} points" if is_share else f"{found:+.1%}"

    noise = "-" if row.lower is None else f"{signed(row.lower)} to {signed(row.upper)}"
    words = row.verdict + (f" ({row.note})" if row.note else "")
    named = (row.scenario, row.figure, value(row.old), value(row.new))
    return (*named, signed(row.change), noise, words)
