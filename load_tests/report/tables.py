"""The CSV files of a run: by scenario, and by second. Times are in seconds. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence

from msgspec import structs

from load_tests.figures import PERCENTILES, Spread
from load_tests.results import Result, Row, Second

SPREADS = ("latency", "first_token", "gap", "longest_gap")
COUNTS = ("count", "ok", "refused", "cancelled", "warm")
AMOUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens")
RATES = ("requests_per_second", "tokens_per_second")


def by_scenario(result: Result) -> str:
    """A line for each scenario, and one for all."""
    names = ["mean", "lowest", "highest", *(f"p{each:g}" for each in PERCENTILES)]
    spreads = [f"{spread}_{name}_seconds" for spread in SPREADS for name in names]
    head = ["scenario", *COUNTS, "errors", *AMOUNTS, *RATES, *spreads]
    return _csv(head, (_row(row) for row in [*result.scenarios, result.total]))


def by_second(result: Result) -> str:
    """A line for each second."""
    names = [field.name for field in structs.fields(Second)]
    head = [f"{name}_seconds" if name in ("p50", "p95", "p99") else name for name in names]
    return _csv(head, ([getattr(each, name) for name in names] for each in result.timeline))


def _row(row: Row) -> list[object]:
    found: list[object] = [row.scenario, *(getattr(row, name) for name in COUNTS)]
    found.append(sum(row.errors.values()))
    found += [getattr(row, name) for name in (*AMOUNTS, *RATES)]
    for name in SPREADS:
        found += _spread(getattr(row, name))
    return found


def _spread(spread: Spread | None) -> list[float | None]:
    if spread is None:
        return [None] * (3 + len(PERCENTILES))
    values = (spread.percentiles[f"p{each:g}"] for each in PERCENTILES)
    return [spread.mean, spread.lowest, spread.highest, *values]


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(head)
    lines.writerows(
        [f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in rows
    )
    return written.getvalue()
