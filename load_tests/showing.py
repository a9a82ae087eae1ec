"""What a person sees: one line while a run goes on, a table at its end. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from load_tests.figures import Spread, percentile
from load_tests.results import Result, Row

Cell = Callable[[Row], str]


def progress_line(second: float, processes: Sequence[Mapping[str, Any]], planned: str) -> str:
    """So far, in one line of a terminal."""

    def total(name: str) -> int:
        return sum(process.get(name, 0) for process in processes)

    recent = sorted(value for process in processes for value in process.get("recent", ()))
    p95 = f", p95 now {1000 * percentile(recent, 95):.0f} ms" if recent else ""
    troubles = "".join(
        f", {total(name)} {name}" for name in ("errors", "refused", "cancelled") if total(name)
    )
    return (
        f"{max(0.0, second):5.1f} s of {planned}: {total('sent')} sent, {total('ok')} ok{troubles}"
        f", {total('in_flight')} in flight, {total('tokens')} tokens{p95}"
    )


def _ms(spread: Spread | None, name: str) -> str:
    if spread is None:
        return "-"
    milliseconds = 1000 * spread.percentiles[name]
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _errors(row: Row) -> str:
    return str(sum(row.errors.values()))


COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("scenario", lambda row: row.scenario),
    ("count", lambda row: str(row.count)),
    ("ok", lambda row: str(row.ok)),
    ("errors", _errors),
    ("refused", lambda row: str(row.refused)),
    ("left", lambda row: str(row.cancelled)),
    ("p50 ms", lambda row: _ms(row.latency, "p50")),
    ("p95", lambda row: _ms(row.latency, "p95")),
    ("p99", lambda row: _ms(row.latency, "p99")),
    ("token p50", lambda row: _ms(row.first_token, "p50")),
    ("p95", lambda row: _ms(row.first_token, "p95")),
    ("gap p50", lambda row: _ms(row.gap, "p50")),
    ("p95", lambda row: _ms(row.gap, "p95")),
    ("tokens/s", lambda row: f"{row.tokens_per_second:,.0f}"),
    ("req/s", lambda row: f"{row.requests_per_second:,.1f}"),
)


def table(result: Result) -> str:
    """A line for each scenario and one for all, then what else is worth a line."""
    every = [*result.scenarios, *([result.total] if len(result.scenarios) > 1 else ())]
    lines = [[title for title, _ in COLUMNS]]
    lines += [[cell(row) for _, cell in COLUMNS] for row in every]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([*shown, "", *_notes(result)])


def _notes(result: Result) -> list[str]:
    total = result.total
    notes = [f"  error: {kind}: {count}" for kind, count in total.errors.items()]
    notes += [f"  refused: {kind}: {count}" for kind, count in total.refusals.items()]
    if total.retried:
        notes.append(f"  came again: {total.retried}, refused again {total.retried_refused}")
    notes += [f"  left out: {name}: {reason}" for name, reason in result.left_out.items()]
    if total.estimated:
        notes.append(f"  tokens are an ESTIMATE: {total.estimated} answers told no usage")
    if total.prompt_tokens:
        share = total.cached_tokens / total.prompt_tokens
        notes.append(f"  prompts: {total.prompt_tokens:,} tokens, {share:.0%} from the cache")
    if result.configuration.is_open and result.lag is not None:
        notes.append(f"  sent after the intended time: p99 {_ms(result.lag, 'p99')} ms")
    busy = ", ".join(f"{process.cpu_share:.0%}" for process in result.processes)
    notes.append(f"  load tester: {busy} of a core, {result.seconds:.1f} s in all")
    notes += [f"  NOT VALID: {reason}" for reason in result.invalid_because]
    return notes
