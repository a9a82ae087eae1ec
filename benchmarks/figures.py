"""From what was counted to what is printed: percentiles, medians of rounds, the table. Pure."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIB = 1024 * 1024
MAX_LEFT_OVER_BYTES = 5_000_000
"""What the gateway may have grown by after many long streams."""


@dataclass(frozen=True)
class Measurement:
    """One target in one round. None: does not apply (a direct connection has no process)."""

    plain_per_second: float
    cpu_us_per_request: float | None
    p50_ms: float
    p99_ms: float
    cpu_us_per_token: float | None
    tokens_per_second: float
    first_token_ms: float
    peak_mib: float | None


@dataclass(frozen=True)
class Row:
    """A target over all rounds; `failure` says why there are no figures.

    `is_wrong` when it ran but gave wrong answers, which fails the whole run.
    """

    name: str
    rounds: tuple[Measurement, ...] = ()
    failure: str | None = None
    is_wrong: bool = False


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("there is no percentile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median_of(rounds: Sequence[Measurement], value: Callable[[Measurement], float | None]) -> float:
    """The median over the rounds; NaN where the value does not apply."""
    values = [found for each in rounds if (found := value(each)) is not None]
    return statistics.median(values) if values else math.nan


def added_ms(
    rounds: Sequence[Measurement],
    direct: Sequence[Measurement],
    value: Callable[[Measurement], float],
) -> float:
    """The median of what each round took longer than the direct connection of the same round."""
    pairs = zip(rounds, direct, strict=False)
    return statistics.median([value(ours) - value(bare) for ours, bare in pairs])


HEADER = (
    "in front of the mock engine",
    "plain req/s",
    "of direct",
    "CPU us/req",
    "added p50 ms",
    "added p99 ms",
    "CPU us/token",
    "tokens/s",
    "of direct",
    "first token ms",
    "peak RSS MiB",
)


def cells(row: Row, direct: Row) -> list[str]:
    """One line of the table; the first row is the direct connection itself."""
    if not row.rounds:
        return [row.name, "not measured", *["-"] * (len(HEADER) - 2)]
    rounds = row.rounds
    plain = median_of(rounds, lambda m: m.plain_per_second)
    tokens = median_of(rounds, lambda m: m.tokens_per_second)
    plain_ceiling = median_of(direct.rounds, lambda m: m.plain_per_second)
    tokens_ceiling = median_of(direct.rounds, lambda m: m.tokens_per_second)
    return [
        row.name,
        f"{plain:,.0f}",
        _shown(plain / plain_ceiling, 2),
        _shown(median_of(rounds, lambda m: m.cpu_us_per_request), 0),
        _shown(added_ms(rounds, direct.rounds, lambda m: m.p50_ms), 2),
        _shown(added_ms(rounds, direct.rounds, lambda m: m.p99_ms), 2),
        _shown(median_of(rounds, lambda m: m.cpu_us_per_token), 0),
        f"{tokens:,.0f}",
        _shown(tokens / tokens_ceiling, 2),
        _shown(median_of(rounds, lambda m: m.first_token_ms), 1),
        _shown(median_of(rounds, lambda m: m.peak_mib), 0),
    ]


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, aligned for people; the first row must be the direct connection."""
    lines = [list(HEADER), *(cells(row, rows[0]) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    rendered = [_line(line, widths) for line in lines]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([rendered[0], rule, *rendered[1:]])


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.rjust(width) if column else text.ljust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    return f"| {first} | " + " | ".join(rest) + " |"


COMPARED: dict[str, Callable[[Measurement], float | None]] = {
    "plain req/s": lambda m: m.plain_per_second,
    "CPU/req": lambda m: m.cpu_us_per_request,
    "CPU/token": lambda m: m.cpu_us_per_token,
    "tokens/s": lambda m: m.tokens_per_second,
}


def beside(row: Row, other: Row) -> str:
    """What a row has of another's figures: the medians of their ratios within each round."""
    shares = []
    for name, value in COMPARED.items():
        pairs = zip(map(value, row.rounds), map(value, other.rounds), strict=True)
        ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs]
        shares.append(f"{name} {_shown(statistics.median(ratios or [math.nan]), 2)}")
    return f"{row.name.strip('*')}, by {other.name.strip('*')}: {', '.join(shares)}"


@dataclass(frozen=True)
class Memory:
    """Resident size of the gateway around many long streams, in bytes."""

    streams: int
    tokens: int
    before: int
    after: int
    peak: int
    seconds: float

    @property
    def is_constant(self) -> bool:
        """Whether the streams left nothing behind."""
        return self.after - self.before <= MAX_LEFT_OVER_BYTES

    def __str__(self) -> str:
        limit = f"\nerror: more than {MAX_LEFT_OVER_BYTES / 1e6:g} MB are left over"
        verdict = "" if self.is_constant else limit
        return (
            f"{self.streams} streams of {self.tokens:,} tokens at once: resident "
            f"{self.before / MIB:.1f} MiB before, {self.after / MIB:.1f} MiB after "
            f"({(self.after - self.before) / MIB:+.1f}), peak {self.peak / MIB:.1f} MiB; "
            f"{self.streams * self.tokens / self.seconds:,.0f} tokens/s{verdict}"
        )
