"""`python -m api_server usage`: who used what, from the ledger."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from api_server.commands.database import with_postgres
from api_server.errors import InvalidRequestError, SetupError
from api_server.services.ledger.reports import (
    MOST_LINES,
    Question,
    Report,
    Usage,
    line_as_json,
    question,
)
from api_server.settings import Settings
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore

EXPLANATION = "who used what: requests and tokens by app, model and day"

NUMBERS = (
    *("requests", "failed", "cache_hits"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "estimated_tokens"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All may be left out."""
    parser.add_argument("--by", metavar="NAMES", help="day, app, model, with commas (app,model)")
    parser.add_argument("--app", help="only this one: its name or its id")
    parser.add_argument("--model", help="only this one")
    parser.add_argument("--since", metavar="DAY", help="2026-11-01, UTC (this month)")
    parser.add_argument("--until", metavar="DAY", help="before this day (now)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="for programs")
    shape.add_argument("--csv", action="store_true", help="for spreadsheets")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Raises `SetupError` with what is wrong."""
    asked = _question(arguments)

    async def work(postgres: Postgres) -> Report:
        return await Usage(UsageStore(postgres), settings.spool).report(asked)

    report = with_postgres(settings, work)
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    elif arguments.csv:
        _write_csv(report)
    else:
        print(_table(report))
    _warn(report)
    return 0


def _question(arguments: argparse.Namespace) -> Question:
    try:
        return question(
            *(arguments.by, arguments.since, arguments.until),
            app=arguments.app,
            model=arguments.model,
            now=datetime.now(UTC),
        )
    except InvalidRequestError as exc:
        raise SetupError(f"--{exc.message}") from exc


def _write_csv(report: Report) -> None:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    columns = [*report.question.by, *NUMBERS]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for line in _lines(report):
        cells = [line[name] for name in columns]
        writer.writerow(
            f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell
            for cell in cells
        )


def _table(report: Report) -> str:
    by = report.question.by
    rows = [[*by, *(name.replace("_", " ") for name in NUMBERS)]]
    for line in _lines(report):
        names = [str(line[name]) if line[name] is not None else "-" for name in by]
        rows.append([*names, *(f"{line[name]:,}" for name in NUMBERS)])
    if len(rows) == 1:
        return "No requests."
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(_aligned(row, widths, len(by)) for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int], names: int) -> str:
    cells = [
        cell.ljust(width) if place < names else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _lines(report: Report) -> list[dict[str, object]]:
    return [line_as_json(line, report.question.by) for line in report.lines[:MOST_LINES]]


def _warn(report: Report) -> None:
    if report.is_cut:
        print(f"Only the first {MOST_LINES:,} lines: ask for less.", file=sys.stderr)
    if report.waiting.rows:
        print(
            f"{report.waiting.rows:,} rows of this machine wait to be in the table, the oldest "
            f"for {report.waiting_seconds or 0:.0f} s.",
            file=sys.stderr,
        )
