"""Recording rules: the figures of the promise, computed once for panels and alerts. Pure."""

from collections.abc import Iterator

from monitoring.expressions import (
    ANSWERS,
    BACKGROUND,
    CHATS,
    DURATION,
    ERRORS,
    FIRST_TOKEN,
    INTERACTIVE,
    MODEL,
    OURS,
    PER_TOKEN,
    QUEUE_WAIT,
    SHORTEST,
    STACK,
    TOKENS,
    WHOLE_CHATS,
    Level,
    budget,
    edge,
    promise,
)
from monitoring.slo import Slo

Rule = dict[str, object]

SHOWN = ("p50", "p95", "p99")
LONGER = ("30m", "1h", "6h", "3d")
"""The windows of alerts on budgets, beyond the shortest."""

_LITTLE = "1e-9"
"""Without traffic there is no error and nothing slow, and no division by zero."""


def recording_groups(slo: Slo) -> list[Rule]:
    """Groups of rules. Those of long windows and of the budget are evaluated less often."""
    return [
        {"name": "figures", "interval": "15s", "rules": list(_figures())},
        {"name": "promise", "interval": "15s", "rules": [*_kept(slo, STACK), *_kept(slo, MODEL)]},
        {
            "name": "promise_long",
            "interval": "1m",
            "rules": [rule for window in LONGER for rule in _kept(slo, STACK, window)],
        },
        {"name": "budget", "interval": "5m", "rules": list(_budgets(slo))},
    ]


def _figures() -> Iterator[Rule]:
    for level in (STACK, MODEL):
        for percentile in SHOWN:
            whole = level.quantile(percentile, DURATION, WHOLE_CHATS)
            yield _record(level, f"request_duration_seconds:{percentile}_5m", whole)
        for percentile in SHOWN:
            first = level.quantile(percentile, FIRST_TOKEN, CHATS)
            yield _record(level, f"first_token_seconds:{percentile}_5m", first)
        yield _record(
            level, "queue_wait_seconds:p95_5m", level.quantile("p95", QUEUE_WAIT, INTERACTIVE)
        )
        for name, of in (("requests", ANSWERS), ("background", BACKGROUND)):
            yield _record(level, f"{name}:rate5m", level.sum(f"{DURATION}_count{{{of}}}", SHORTEST))
        tokens = level.sum(TOKENS, SHORTEST, "gen_ai_token_type")
        yield _record(level, "tokens:rate5m", tokens)
        counts = level.sum(f"{PER_TOKEN}_count{{{CHATS}}}", SHORTEST)
        seconds = level.sum(f"{PER_TOKEN}_sum{{{CHATS}}}", SHORTEST)
        yield _record(level, "answer_tokens_per_second:avg5m", f"{counts}\n/ {seconds}")


def _kept(slo: Slo, level: Level, window: str = SHORTEST) -> Iterator[Rule]:
    """How far the promise is kept: requests it is counted over, errors, those that were slow."""
    errors = level.sum(f"{ERRORS}{{{OURS}}}", window)
    answered = level.sum(f'{DURATION}_count{{{ANSWERS},error_type=""}}', window)
    yield _record(level, f"errors:rate{window}", errors)
    yield _record(level, f"counted:rate{window}", f"{answered}\n+ {level.name}:errors:rate{window}")
    yield _record(level, f"errors:ratio{window}", _ratio(level, "errors", "counted", window))
    chats = level.sum(f"{DURATION}_count{{{WHOLE_CHATS}}}", window)
    yield _record(level, f"chats:rate{window}", chats)
    for percentile, milliseconds in promise(slo).latency_ms.items():
        bucket = f"{DURATION}_bucket{{{WHOLE_CHATS},{edge(milliseconds)}}}"
        within = level.sum(bucket, window)
        slow = f"clamp_min({level.name}:chats:rate{window}\n- {within}, 0)"
        yield _record(level, f"slow:rate{window}", slow, percentile=percentile)
        mine = f'slow:rate{window}{{percentile="{percentile}"}}'
        ratio = _ratio(level, mine, "chats", window)
        yield _record(level, f"slow:ratio{window}", ratio, percentile=percentile)
        if window == SHORTEST:
            within_share = f"1 - {ratio}"
            yield _record(level, "within_target:ratio5m", within_share, percentile=percentile)


def _ratio(level: Level, part: str, whole: str, window: str) -> str:
    part = part if "{" in part else f"{part}:rate{window}"
    on = "on (model) " if level.labels else "on () "
    return f"{level.name}:{part} / {on}clamp_min({level.name}:{whole}:rate{window}, {_LITTLE})"


def _budgets(slo: Slo) -> Iterator[Rule]:
    """1 is untouched, 0 is used up, below that the promise is broken over the window."""
    days = slo.window_days
    of_errors = _left("stack:errors:rate5m", "stack:counted:rate5m", promise(slo).error_rate, days)
    yield _record(STACK, "error_budget_left:ratio", of_errors, promise="errors")
    for percentile in promise(slo).latency_ms:
        slow = f'stack:slow:rate5m{{percentile="{percentile}"}}'
        left = _left(slow, "stack:chats:rate5m", budget(percentile), days)
        labels = {"promise": "latency", "percentile": percentile}
        yield _record(STACK, "error_budget_left:ratio", left, **labels)


def _left(part: str, whole: str, allowed: float, days: int) -> str:
    """Rates are recorded at even intervals, so that their sums are in proportion to events."""
    used = f"sum(sum_over_time({part}[{days}d]))"
    total = f"clamp_min(sum(sum_over_time({whole}[{days}d])), {_LITTLE})"
    return f"1 - {used}\n/ {total} / {allowed:g}"


def _record(level: Level, name: str, expression: str, **labels: str) -> Rule:
    rule: Rule = {"record": f"{level.name}:{name}", "expr": expression}
    return rule | ({"labels": labels} if labels else {})
