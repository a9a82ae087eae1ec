"""*Overview*: are we within the targets now, and since when. Pure."""

from collections.abc import Iterator

from monitoring.expressions import ERRORS, IN_BACKGROUND, INTERACTIVE, promise, share
from monitoring.panels import WINDOW, Board, Panel, Prom, Row
from monitoring.slo import Slo

_LATENCY_NOTE = (
    "Of chats and completions that went well, over five minutes, from their arrival to their last "
    "byte, the time in the queue included."
)
_KEPT = {1: ("kept", "green"), 0: ("broken", "red")}
_DAY = "[1d:15s]"


def board(slo: Slo) -> Board:
    """The targets are drawn from the file of promises."""
    return Board(
        uid="stack-overview",
        title="LLM serving: overview",
        description="Are the targets of configs/slo.yaml kept, and since when. docs/dashboards.md",
        rows=[
            Row(5, [_kept_now(slo), _kept_since(slo), _budget_now(slo)]),
            Row(4, list(_counts(slo))),
            Row(9, [_duration(slo), _first_token()]),
            Row(6, [_kept_over_time(slo), _alerts()]),
            Row(8, [_throughput(slo), _errors(slo)]),
            Row(8, [_budget(slo), _refused()]),
            Row(8, [_outcomes(), _health()]),
        ],
    )


def _promises(slo: Slo) -> Iterator[tuple[str, str, str]]:
    """A name, what says how it is, and what that must be for the promise to be kept."""
    for percentile in promise(slo).latency_ms:
        within = f'stack:within_target:ratio5m{{percentile="{percentile}"}}'
        yield percentile, within, f">= {share(percentile):g}"
    yield "errors", "stack:errors:ratio5m", f"<= {promise(slo).error_rate:g}"


def _now(slo: Slo) -> list[Prom]:
    return [
        Prom(_target(slo, name), f"{figure} {rule.replace(' ', ' bool ')}")
        for name, figure, rule in _promises(slo)
    ]


def _target(slo: Slo, name: str) -> str:
    """The promise in words: p95 < 1000 ms."""
    if name == "errors":
        return f"errors < {promise(slo).error_rate * 100:g} %"
    return f"{name} < {dict(promise(slo).latency_ms)[name]} ms"  # type: ignore[index]


def _kept_now(slo: Slo) -> Panel:
    return Panel(
        title="Within the targets now",
        description=(
            "Each promise of configs/slo.yaml over the last five minutes. A percentile is kept "
            "where so many of 100 answers came in time. Without requests nothing is broken."
        ),
        unit="short",
        queries=_now(slo),
        kind="stat",
        width=9,
        words=_KEPT,
    )


def _kept_since(slo: Slo) -> Panel:
    begun = f"(time() - min_over_time(timestamp(stack:errors:ratio5m){_DAY}))"
    queries = []
    for name, figure, rule in _promises(slo):
        broken = rule.replace(">=", "<") if ">=" in rule else rule.replace("<=", ">")
        last = f"max_over_time(timestamp({figure} {broken}){_DAY})"
        queries.append(Prom(name, f"max(time() - {last}) or max{begun}"))
    return Panel(
        title="Kept for",
        description=(
            "The time since a promise was broken last; where it never was, since Prometheus "
            "began to watch. It looks back a day, so 1 day may be more."
        ),
        unit="dtdurations",
        queries=queries,
        kind="stat",
        width=9,
        decimals=0,
        quiet="nothing is known yet",
    )


def _budget_now(slo: Slo) -> Panel:
    return Panel(
        title="Error budget left",
        description=(
            f"Of what the promises allow over {slo.window_days} days: 100 % is untouched, at 0 it "
            "is used up, below that the promise is broken. Counted every five minutes."
        ),
        unit="percentunit",
        queries=_budgets(),
        kind="stat",
        width=6,
        decimals=1,
        quiet="counted every 5 minutes",
    )


def _budgets() -> list[Prom]:
    series = "stack:error_budget_left:ratio"
    return [
        Prom("errors", f'last_over_time({series}{{promise="errors"}}[15m])'),
        Prom("{{percentile}}", f'last_over_time({series}{{promise="latency"}}[15m])'),
    ]


def _counts(slo: Slo) -> Iterator[Panel]:
    rate = promise(slo).requests_per_second
    yield Panel(
        title="Requests",
        description=(
            "Requests to models that ended, of all gateways, without jobs, runs and files. The "
            f"promise holds up to {rate:g} per second and more: the load tests find out how many."
        ),
        unit="reqps",
        queries=[Prom("requests", "stack:requests:rate5m")],
        kind="stat",
        width=5,
        decimals=2,
    )
    yield Panel(
        title="Answers in time",
        description="The share of whole chats that came within the target of a percentile.",
        unit="percentunit",
        queries=[Prom("{{percentile}}", "stack:within_target:ratio5m")],
        kind="stat",
        width=7,
        decimals=1,
    )
    yield Panel(
        title="In the queue",
        description="Requests that wait for a free slot of their model now.",
        unit="short",
        queries=[Prom("queued", 'sum(llm_gateway_in_flight{phase="queued"})')],
        kind="stat",
        width=4,
    )
    yield Panel(
        title="Alerts firing",
        description="Each has its section in docs/runbooks.md.",
        unit="short",
        queries=[Prom("alerts", 'count(ALERTS{alertstate="firing"}) or vector(0)')],
        kind="stat",
        width=4,
    )
    yield Panel(
        title="Targets down",
        description=(
            "Services that Prometheus knows and cannot ask. Of a service that is looked up by "
            "name, one that is stopped is no target any more."
        ),
        unit="short",
        queries=[Prom("down", "count(up == 0) or vector(0)")],
        kind="stat",
        width=4,
    )


def _duration(slo: Slo) -> Panel:
    targets = [
        Prom(f"{percentile} target", f"vector({milliseconds / 1000:g})")
        for percentile, milliseconds in promise(slo).latency_ms.items()
    ]
    return Panel(
        title="Duration, with its targets",
        description=f"{_LATENCY_NOTE} What failed is counted in Errors.",
        unit="s",
        queries=[*_percentiles("request_duration_seconds"), *targets],
    )


def _first_token() -> Panel:
    return Panel(
        title="Time to first token",
        description=(
            "From the arrival of a chat or completion to the engine's first token, over five "
            "minutes, the time in the queue included. Of streamed runs: Tenants and jobs."
        ),
        unit="s",
        queries=_percentiles("first_token_seconds"),
        quiet="no answers in this time",
    )


def _percentiles(figure: str) -> list[Prom]:
    return [Prom(each, f"stack:{figure}:{each}_5m") for each in ("p50", "p95", "p99")]


def _kept_over_time(slo: Slo) -> Panel:
    return Panel(
        title="Within the targets",
        description="When each promise was kept, and when it was broken, over five minutes each.",
        unit="short",
        queries=_now(slo),
        kind="state-timeline",
        words=_KEPT,
    )


def _alerts() -> Panel:
    return Panel(
        title="Alerts that fire now",
        description="What each means and what to do: docs/runbooks.md.",
        unit="short",
        queries=[
            Prom("{{alertname}}", 'sum by (alertname, severity) (ALERTS{alertstate="firing"})')
        ],
        kind="table",
        quiet="none",
    )


def _throughput(slo: Slo) -> Panel:
    return Panel(
        title="Throughput",
        description=(
            "Requests to models that ended, over five minutes. Up to the dashed line the latency "
            "is promised; below it there was only less to do. Background: those of jobs, runs and "
            "files, to which nothing is promised."
        ),
        unit="reqps",
        queries=[
            Prom("requests", "stack:requests:rate5m"),
            Prom("background", "stack:background:rate5m"),
            Prom("target", f"vector({promise(slo).requests_per_second:g})"),
        ],
    )


def _errors(slo: Slo) -> Panel:
    return Panel(
        title="Errors",
        description=(
            "The share of requests that failed by our doing (engine, gateway) or were refused "
            "because too much was going on. An app beyond a limit of its own is no error. Jobs, "
            "runs and files do not count."
        ),
        unit="percentunit",
        queries=[
            Prom("errors", "stack:errors:ratio5m"),
            Prom("errors target", f"vector({promise(slo).error_rate:g})"),
        ],
    )


def _budget(slo: Slo) -> Panel:
    return Panel(
        title="Error budget left, over time",
        description=f"Of {slo.window_days} days. Where it falls, something was broken just then.",
        unit="percentunit",
        queries=_budgets(),
        most=1,
        quiet="counted every 5 minutes",
    )


def _refused() -> Panel:
    return Panel(
        title="Refused and failed",
        description=(
            "Requests to models without a whole answer. Engine, gateway and shed (too much was "
            "going on) break the promise; limited (an app beyond its limits), client (a wrong "
            "request) and left do not, nor does background: jobs, runs and files."
        ),
        unit="reqps",
        queries=[
            Prom("{{kind}}", f"sum by (kind) (rate({ERRORS}{{{INTERACTIVE}}}[{WINDOW}]))"),
            Prom("background", f"sum(rate({ERRORS}{{{IN_BACKGROUND}}}[{WINDOW}])) or vector(0)"),
        ],
    )


def _outcomes() -> Panel:
    return Panel(
        title="Requests by outcome",
        description=(
            "What became of requests, those for lists and for administration too; probes and "
            "scrapes do not count."
        ),
        unit="reqps",
        queries=[
            Prom(
                "{{outcome}}",
                "sum by (outcome) (rate(llm_gateway_requests_total"
                f'{{route!~"/health.*|/metrics"}}[{WINDOW}]))',
            )
        ],
        quiet="no requests yet",
    )


def _health() -> Panel:
    return Panel(
        title="Stores and engines",
        description=(
            "Share of the gateways' processes that reach a store, or find nothing wrong with an "
            "engine. Chats go on without the stores."
        ),
        unit="percentunit",
        queries=[
            Prom(
                "{{dependency}}",
                'sum by (dependency) (llm_gateway_dependency_state{state="up"})\n'
                "/ sum by (dependency) (llm_gateway_dependency_state)",
            ),
            Prom(
                "engines of {{model}}",
                "sum by (model) (llm_gateway_replica_sound)\n"
                "/ (count by (model) (llm_gateway_replica_sound) * "
                "scalar(avg(llm_gateway_workers)))",
            ),
        ],
        most=1,
    )
