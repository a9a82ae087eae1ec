"""Alerts: when the promise is being broken, and when something else wants looking after. Pure."""

from collections.abc import Iterator

from monitoring.expressions import INTERACTIVE, budget, promise
from monitoring.slo import Slo

Rule = dict[str, object]

RUNBOOKS = "docs/runbooks.md"

BURNS = (("1h", "5m", 14.4, "page"), ("6h", "30m", 6.0, "page"), ("3d", "6h", 1.0, "ticket"))
"""Long window, short window, how many times too fast the budget goes: Google's SRE workbook,
chapter 5. The short one ends the alert soon after the fault."""

FEWEST = 5
"""So many bad requests at least: one at night wakes nobody."""

_SECONDS = {"1h": 3600, "6h": 21_600, "3d": 259_200}
_ENGINES = 'job="llama-cpp"'


def alert_groups(slo: Slo) -> list[Rule]:
    """Groups of rules."""
    groups = {
        "burn": [*_error_burns(slo), *_latency_burns(slo)],
        "engines": _engines(slo),
        "load": _load(slo),
        "stores": _stores(slo),
        "machines": _machines(slo),
    }
    return [{"name": f"alerts_{name}", "rules": list(rules)} for name, rules in groups.items()]


def _alert(
    name: str,
    expression: str,
    severity: str,
    summary: str,
    description: str,
    *,
    hold: str | None = None,
    **labels: str,
) -> Rule:
    """`hold` is how long it must be so before anybody is told."""
    return {
        "alert": name,
        "expr": expression,
        **({"for": hold} if hold else {}),
        "labels": {"severity": severity, **labels},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{RUNBOOKS}#{name.lower()}",
        },
    }


def _error_burns(slo: Slo) -> Iterator[Rule]:
    rate = promise(slo).error_rate
    for long, short, factor, severity in BURNS:
        ratio, over = f"stack:errors:ratio{long}", f"{factor * rate:g}"
        yield _alert(
            "ErrorBudgetBurn",
            f"{ratio} > {over} and stack:errors:ratio{short} > {over}\n"
            f"and {ratio} * stack:counted:rate{long} * {_SECONDS[long]} >= {FEWEST}",
            severity,
            f"Requests fail: the error budget goes {factor:g} times too fast.",
            f"{{{{ $value | humanizePercentage }}}} of the requests of the last {long} failed or "
            f"were refused; {rate * 100:g} % may.",
            window=long,
        )


def _latency_burns(slo: Slo) -> Iterator[Rule]:
    """No rule where a percentile's budget cannot go so fast: half of all may be slower than p50."""
    for percentile, milliseconds in promise(slo).latency_ms.items():
        allowed = budget(percentile)
        for long, short, factor, severity in BURNS:
            over = factor * allowed
            if over >= 1:
                continue
            mine = f'{{percentile="{percentile}"}}'
            ratio = f"stack:slow:ratio{long}{mine}"
            yield _alert(
                "LatencyBudgetBurn",
                f"{ratio} > {over:g} and stack:slow:ratio{short}{mine} > {over:g}\n"
                f"and {ratio} * on () group_left () stack:chats:rate{long} * {_SECONDS[long]} "
                f">= {FEWEST}",
                severity,
                f"Answers are slow: the budget of {percentile} goes {factor:g} times too fast.",
                f"{{{{ $value | humanizePercentage }}}} of the answers of the last {long} took "
                f"longer than {milliseconds} ms; {allowed * 100:g} % may.",
                percentile=percentile,
                window=long,
            )


def _engines(slo: Slo) -> Iterator[Rule]:
    floor = slo.alerts.tokens_per_second
    yield _alert(
        "EngineOnCpu",
        f"sum(avg_over_time(llamacpp:requests_processing{{{_ENGINES}}}[5m])) > 0.1\n"
        "and on () max(max_over_time(DCGM_FI_DEV_GPU_UTIL[5m])) == 0",
        "page",
        "Engines work, and no GPU of this machine does.",
        "{{ $value | humanize }} requests were being worked on over 5 minutes, at 0 % of all GPUs.",
        hold="2m",
        sign="utilisation",
    )
    yield _alert(
        "EngineOnCpu",
        f"rate(llamacpp:tokens_predicted_total{{{_ENGINES}}}[5m])\n"
        f"/ rate(llamacpp:tokens_predicted_seconds_total{{{_ENGINES}}}[5m]) < {floor:g}\n"
        "and on () count(DCGM_FI_DEV_GPU_UTIL) > 0",
        "page",
        "An engine is as slow as a CPU, on a machine that has a GPU.",
        "{{ $labels.instance }} makes {{ $value | humanize }} tokens/s in each busy slot.",
        hold="5m",
        sign="speed",
    )
    yield _alert(
        "TokensSlow",
        f"model:answer_tokens_per_second:avg5m < {floor:g}",
        "ticket",
        "Answers come slower than people read.",
        "{{ $labels.model }} gives {{ $value | humanize }} tokens/s to one answer; "
        f"{floor:g} is the floor.",
        hold="10m",
    )
    yield _alert(
        "ReplicaUnsound",
        "sum by (model, replica) (llm_gateway_replica_sound)\n"
        "< on () group_left () sum(llm_gateway_workers)",
        "ticket",
        "A replica is left out.",
        "{{ $labels.replica }} of {{ $labels.model }} fails or is down for some of the gateways.",
        hold="2m",
    )
    yield _alert(
        "NoReplicaSound",
        "sum by (model) (llm_gateway_replica_sound) == 0",
        "page",
        "A model has no engine.",
        "All replicas of {{ $labels.model }} fail or are down.",
        hold="1m",
    )
    yield _alert(
        "BreakerOpens",
        'sum by (model, replica) (avg_over_time(llm_gateway_breaker_state{state!="closed"}[10m]))\n'
        "> on () group_left () 0.2 * sum(llm_gateway_workers)",
        "ticket",
        "A replica fails again and again.",
        "The breaker of {{ $labels.replica }} ({{ $labels.model }}) was open for more than a fifth "
        "of 10 minutes.",
    )
    yield _alert(
        "EngineDefers",
        f"avg_over_time(llamacpp:requests_deferred[10m]) > {slo.alerts.engine_deferred:g}",
        "ticket",
        "Requests wait inside an engine, where nobody has an eye on their order.",
        "{{ $value | humanize }} requests waited in {{ $labels.instance }}, over 10 minutes.",
    )


def _load(slo: Slo) -> Iterator[Rule]:
    alerts = slo.alerts
    yield _alert(
        "QueueWaitLong",
        f"model:queue_wait_seconds:p95_5m > {alerts.queue_wait_ms / 1000:g}",
        "ticket",
        "Requests wait long for a slot.",
        "5 % of the requests to {{ $labels.model }} wait longer than "
        "{{ $value | humanizeDuration }}.",
        hold="5m",
    )
    yield _alert(
        "OldestRequestWaits",
        f"max by (model) (llm_gateway_oldest_queued_seconds) > {alerts.oldest_request_seconds:g}",
        "ticket",
        "A queue does not move.",
        "A request to {{ $labels.model }} has been waiting for {{ $value | humanizeDuration }}.",
        hold="1m",
    )
    yield _alert(
        "OldestJobWaits",
        f"max(llm_gateway_oldest_job_seconds) > {alerts.oldest_job_seconds:g}",
        "ticket",
        "Jobs wait too long.",
        "One has been waiting for {{ $value | humanizeDuration }}.",
        hold="1m",
    )
    yield _alert(
        "Shedding",
        f'sum by (model) (rate(llm_gateway_errors_total{{kind="shed",{INTERACTIVE}}}[5m]))\n'
        f"/ on (model) clamp_min(model:counted:rate5m, 1e-9) > {alerts.shed_share:g}",
        "ticket",
        "Requests are refused, as too much is going on.",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} are refused.",
        hold="5m",
    )


def _stores(slo: Slo) -> Iterator[Rule]:
    away = "sum by (dependency) (llm_gateway_dependency_state"
    yield _alert(
        "DependencyDown",
        f'{away}{{state="down",dependency!="redis"}}) > 0',
        "page",
        "A backing service is away.",
        "{{ $value }} processes cannot reach {{ $labels.dependency }}. Chats go on.",
        hold="2m",
    )
    yield _alert(
        "LimitsDegraded",
        f'{away}{{state="down",dependency="redis"}}) > 0',
        "ticket",
        "Redis is away: each process keeps its share of every limit, and no answer is cached.",
        "{{ $value }} processes cannot reach it. Chats go on.",
        hold="2m",
    )
    yield _alert(
        "SpoolGrowing",
        f"sum(llm_gateway_spool_rows) > {slo.alerts.spool_rows}\n"
        "and sum(deriv(llm_gateway_spool_rows[10m])) > 0",
        "ticket",
        "Rows of the ledger pile up on the disk.",
        "{{ $value }} rows wait for PostgreSQL, and more of them all the time.",
        hold="5m",
    )
    yield _alert(
        "LedgerRowsLost",
        "sum by (reason) (increase(llm_gateway_ledger_lost_total[15m])) > 0",
        "page",
        "Usage is missing from the ledger.",
        "{{ $value | humanize }} rows were lost or put aside: {{ $labels.reason }}.",
    )


def _machines(slo: Slo) -> Iterator[Rule]:
    alerts = slo.alerts
    yield _alert(
        "DiskLow",
        f"llm_gateway_disk_free_bytes / llm_gateway_disk_size_bytes < {alerts.disk_free_share:g}",
        "page",
        "The disk is nearly full.",
        "{{ $value | humanizePercentage }} of the disk of {{ $labels.instance }} are free.",
        hold="5m",
    )
    yield _alert(
        "TargetDown",
        "up == 0",
        "ticket",
        "A service does not tell how it is.",
        "{{ $labels.job }} at {{ $labels.instance }} gives no figures.",
        hold="2m",
    )
    yield _alert(
        "GatewayGone",
        'absent(up{job="api-server"} == 1)',
        "page",
        "No gateway can be seen.",
        "No target of the job api-server is up.",
        hold="1m",
    )
    yield _alert(
        "FrontWithoutGateway",
        'haproxy_backend_active_servers{proxy="gateways"} == 0',
        "page",
        "The front knows no gateway: clients get 503.",
        "The front at {{ $labels.instance }} has nobody to pass requests to.",
        hold="30s",
    )
    yield _alert(
        "GatewayLags",
        "histogram_quantile(0.99, sum by (instance, le) "
        "(rate(llm_gateway_event_loop_lag_seconds_bucket[5m])))\n"
        f"> {alerts.loop_lag_ms / 1000:g}",
        "ticket",
        "A gateway is late with everything.",
        "{{ $labels.instance }} turns to what is due {{ $value | humanizeDuration }} late.",
        hold="5m",
    )
