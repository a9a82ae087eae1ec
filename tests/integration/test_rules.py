"""Every alert, played to `promtool test rules`: fires when it should, and is silent else."""

import subprocess
from pathlib import Path

import pytest

from monitoring.alerts import alert_groups
from monitoring.rules import FOLDER
from monitoring.slo import Slo, load_slo
from tests.promtool import MISSING, PROGRAM, Case, always, chats, document, errors, every, run

needs_promtool = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

SLO = load_slo()
REPLICA = 'model="m",replica="e:8080"'
ENGINE = 'job="llama-cpp",instance="e:8080"'


def only(*fires: str) -> frozenset[str]:
    return frozenset(fires)


def breaker(closed: float, opened: float) -> dict[str, str]:
    return {
        f'llm_gateway_breaker_state{{{REPLICA},state="closed"}}': always(closed),
        f'llm_gateway_breaker_state{{{REPLICA},state="open"}}': always(opened),
    }


def lag(quick: float, slow: float) -> dict[str, str]:
    name = 'llm_gateway_event_loop_lag_seconds_bucket{instance="gw:8000",le='
    return {f'{name}"0.01"}}': every(quick), f'{name}"1"}}': every(quick + slow)} | {
        f'{name}"+Inf"}}': every(quick + slow)
    }


def waits(quick: float, slow: float, operation: str = "chat") -> dict[str, str]:
    name = f'llm_gateway_queue_wait_seconds_bucket{{model="m",operation="{operation}",le='
    return {f'{name}"0.1"}}': every(quick), f'{name}"10"}}': every(quick + slow)} | {
        f'{name}"+Inf"}}': every(quick + slow)
    }


P95_FAST = "LatencyBudgetBurn:percentile=p95 window=1h"
P95 = "LatencyBudgetBurn:percentile=p95 window=6h"
P95_SLOW = "LatencyBudgetBurn:percentile=p95 window=3d"
P99_FAST = "LatencyBudgetBurn:percentile=p99 window=1h"
P99 = "LatencyBudgetBurn:percentile=p99 window=6h"
P99_SLOW = "LatencyBudgetBurn:percentile=p99 window=3d"
P50_SLOW = "LatencyBudgetBurn:percentile=p50 window=3d"
FAST, MIDDLE, SLOW = (f"ErrorBudgetBurn:window={window}" for window in ("1h", "6h", "3d"))

CASES = [
    Case("in order"),
    Case("in order for hours", at="8h"),
    Case("without any traffic", {**chats(SLO, 0), **errors(), **waits(0, 0)}),
    # errors
    Case("3 % fail", errors(engine=18), only(FAST, MIDDLE, SLOW), at="2h"),
    Case("0.9 % fail", errors(gateway=5.4), only(MIDDLE, SLOW), at="2h"),
    Case("0.2 % fail for days", errors(engine=1.2), only(SLOW), at="3d"),
    Case("0.05 % fail for hours", errors(engine=0.3), at="8h"),
    Case("3 % were refused", errors(shed=18), only(FAST, MIDDLE, SLOW, "Shedding"), at="2h"),
    Case(
        "half are beyond their app's limits, are wrong, or leave",
        errors(limited=600, client=600, left=600),
        at="2h",
    ),
    Case(
        "it failed, and does no more",
        {
            'llm_gateway_errors_total{model="m",kind="engine",operation="chat"}': (
                "0+60x40 2400+0x400"
            )
        },
        only(MIDDLE, SLOW),
        at="50m",
    ),
    Case(
        "two of ten requests fail at night",
        {**chats(SLO, 0.1), **errors(engine=0.02)},
        at="1h",
    ),
    # latency
    Case("75 % beyond p95", chats(SLO, 600, {"p95": 0.75}), only(P95_FAST, P95, P95_SLOW), "2h"),
    Case("35 % beyond p95", chats(SLO, 600, {"p95": 0.35}), only(P95, P95_SLOW), "2h"),
    Case("6 % beyond p95 for hours", chats(SLO, 600, {"p95": 0.06}), only(P95_SLOW), "8h"),
    Case("4 % beyond p95 for hours", chats(SLO, 600, {"p95": 0.04}), at="8h"),
    Case("20 % beyond p99", chats(SLO, 600, {"p99": 0.2}), only(P99_FAST, P99, P99_SLOW), "2h"),
    Case("8 % beyond p99", chats(SLO, 600, {"p99": 0.08}), only(P99, P99_SLOW), "2h"),
    Case("2 % beyond p99 for hours", chats(SLO, 600, {"p99": 0.02}), only(P99_SLOW), "8h"),
    Case("0.5 % beyond p99 for hours", chats(SLO, 600, {"p99": 0.005}), at="8h"),
    Case("60 % beyond p50 for hours", chats(SLO, 600, {"p50": 0.6}), only(P50_SLOW), "8h"),
    Case("40 % beyond p50 for hours", chats(SLO, 600, {"p50": 0.4}), at="8h"),
    Case(
        "quick refusals make slow answers no better",
        {
            **chats(SLO, 600, {"p95": 0.75}),
            **chats(SLO, 60_000, error="rate_limit_exceeded"),
            **errors(limited=60_000),
        },
        only(P95_FAST, P95, P95_SLOW),
        at="2h",
    ),
    Case("slow errors make quick answers no slower", chats(SLO, 600, {"p95": 1}, error="x")),
    Case(
        "buckets as Prometheus 3 writes them",
        {
            name.replace('le="1"', 'le="1.0"'): values
            for name, values in chats(SLO, 600, {"p95": 0.75}).items()
        },
        only(P95_FAST, P95, P95_SLOW),
        at="2h",
        gone=("gen_ai_server_request_duration_seconds_bucket",),
    ),
    # what nobody waits for
    *(
        Case(
            f"all of {operation} is slow, waits and fails",
            {
                **chats(SLO, 6000, {"p50": 1, "p95": 1, "p99": 1}, operation=operation),
                **errors(operation, engine=600, shed=600),
                **waits(0, 6000, operation),
            },
            at="2h",
        )
        for operation in ("job", "run", "ingest")
    ),
    Case(
        "quick jobs hide nothing",
        {
            **chats(SLO, 600, {"p95": 0.75}),
            **chats(SLO, 60_000, operation="job"),
            **errors(engine=18),
        },
        only(P95_FAST, P95, P95_SLOW, FAST, MIDDLE, SLOW),
        at="2h",
    ),
    # engines
    Case(
        "no GPU works",
        {'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': always(0)},
        only("EngineOnCpu:sign=utilisation"),
    ),
    Case(
        "no GPU works, and there is nothing to do",
        {
            'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': always(0),
            f"llamacpp:requests_processing{{{ENGINE}}}": always(0),
        },
    ),
    Case(
        "one of two GPUs works",
        {
            'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': always(0),
            'DCGM_FI_DEV_GPU_UTIL{gpu="1"}': always(40),
        },
    ),
    Case(
        "slow slots beside a GPU",
        {f"llamacpp:tokens_predicted_total{{{ENGINE}}}": every(800)},
        only("EngineOnCpu:sign=speed"),
    ),
    Case(
        "slow slots where there is no GPU",
        {f"llamacpp:tokens_predicted_total{{{ENGINE}}}": every(800)},
        gone=("DCGM",),
    ),
    Case(
        "slow answers",
        {
            'gen_ai_server_time_per_output_token_seconds_sum{gen_ai_operation_name="chat",'
            'gen_ai_request_model="m"}': every(600 * 0.25)
        },
        only("TokensSlow"),
    ),
    Case(
        "one of two workers leaves a replica out",
        {f"llm_gateway_replica_sound{{{REPLICA}}}": always(1)},
        only("ReplicaUnsound"),
    ),
    Case(
        "the only replica is out",
        {f"llm_gateway_replica_sound{{{REPLICA}}}": always(0)},
        only("ReplicaUnsound", "NoReplicaSound"),
    ),
    Case(
        "one of two replicas is out",
        {'llm_gateway_replica_sound{model="m",replica="e2:8080"}': always(0)},
        only("ReplicaUnsound"),
    ),
    Case("a breaker is open", breaker(0, 2), only("BreakerOpens")),
    Case(
        "a breaker was open for a minute",
        {f'llm_gateway_breaker_state{{{REPLICA},state="open"}}': "0+0x20 2 0+0x100"},
        at="23m",
    ),
    Case(
        "a breaker opens again and again",
        {f'llm_gateway_breaker_state{{{REPLICA},state="open"}}': "2 0 2 0 2 0 2 0 2 0 2 0"},
        only("BreakerOpens"),
        at="11m",
    ),
    Case(
        "requests wait in the engine",
        {f"llamacpp:requests_deferred{{{ENGINE}}}": always(5)},
        only("EngineDefers"),
    ),
    # load
    Case("6 % wait long", waits(564, 36), only("QueueWaitLong")),
    Case("4 % wait long", waits(576, 24)),
    Case(
        "one request waits long",
        {'llm_gateway_oldest_queued_seconds{model="m"}': always(11)},
        only("OldestRequestWaits"),
    ),
    Case(
        "one request waits, but not long",
        {'llm_gateway_oldest_queued_seconds{model="m"}': always(9)},
    ),
    Case(
        "a job waits long",
        {"llm_gateway_oldest_job_seconds": always(601)},
        only("OldestJobWaits"),
    ),
    Case("a job waits, but not long", {"llm_gateway_oldest_job_seconds": always(599)}),
    Case("few are refused", errors(shed=3), only(SLOW), at="2h"),
    # stores
    Case(
        "PostgreSQL is away",
        {'llm_gateway_dependency_state{dependency="postgres",state="down"}': always(1)},
        only("DependencyDown"),
    ),
    Case(
        "Redis is away",
        {'llm_gateway_dependency_state{dependency="redis",state="down"}': always(2)},
        only("LimitsDegraded"),
    ),
    Case(
        "Redis was away for a minute",
        {'llm_gateway_dependency_state{dependency="redis",state="down"}': "0+0x28 2 0+0x100"},
        at="29m",
    ),
    Case("the spool grows", {"llm_gateway_spool_rows": every(100)}, only("SpoolGrowing")),
    Case("the spool is large and shrinks", {"llm_gateway_spool_rows": every(-100, since=50_000)}),
    Case("the spool is small and grows", {"llm_gateway_spool_rows": every(10)}),
    Case(
        "rows are lost",
        {'llm_gateway_ledger_lost_total{reason="disk"}': "3+0x20 5+0x100"},
        only("LedgerRowsLost"),
    ),
    Case(
        "rows were lost long ago",
        {'llm_gateway_ledger_lost_total{reason="disk"}': "3+0x20 5+0x1000"},
        at="60m",
    ),
    # machines
    Case(
        "9 % of the disk are free",
        {'llm_gateway_disk_free_bytes{instance="gw:8000"}': always(9e9)},
        only("DiskLow"),
    ),
    Case(
        "11 % of the disk are free",
        {'llm_gateway_disk_free_bytes{instance="gw:8000"}': always(11e9)},
    ),
    Case(
        "a service is down",
        {'up{job="qdrant",instance="qdrant:6333"}': always(0)},
        only("TargetDown"),
    ),
    Case(
        "a service was down for a minute",
        {'up{job="qdrant",instance="qdrant:6333"}': "1+0x28 0 1+0x100"},
        at="29m",
    ),
    Case(
        "the only gateway is down",
        {'up{job="api-server",instance="gw:8000"}': always(0)},
        only("GatewayGone", "TargetDown"),
    ),
    Case("no gateway can be found", fires=only("GatewayGone"), gone=('up{job="api-server"',)),
    Case(
        "one of two gateways is down",
        {'up{job="api-server",instance="gw2:8000"}': always(0)},
        only("TargetDown"),
    ),
    Case(
        "the front knows nobody",
        {'haproxy_backend_active_servers{proxy="gateways",instance="front:8405"}': always(0)},
        only("FrontWithoutGateway"),
    ),
    Case("2 % of the looks are late", lag(98, 2), only("GatewayLags")),
    Case("0.5 % of the looks are late", lag(199, 1)),
]


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_fires(case: Case, tmp_path: Path) -> None:
    ran = run(tmp_path, SLO, document(case, SLO, tmp_path / "rules"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_fires_in_a_case_and_is_silent_in_another() -> None:
    groups: list[dict[str, list[dict[str, dict[str, str]]]]] = alert_groups(SLO)  # type: ignore[assignment]
    names = set()
    for rule in (rule for group in groups for rule in group["rules"]):
        kept = {k: v for k, v in sorted(rule["labels"].items()) if k != "severity"}
        labels = " ".join(f"{name}={value}" for name, value in kept.items())
        names.add(f"{rule['alert']}:{labels}" if labels else str(rule["alert"]))
    assert names == set().union(*(case.fires for case in CASES))
    assert not CASES[0].fires


@needs_promtool
def test_a_case_that_expects_something_else_fails(tmp_path: Path) -> None:
    wrong = Case("wrong", errors(engine=18), only(FAST), at="2h")
    ran = run(tmp_path, SLO, document(wrong, SLO, tmp_path / "rules"))
    assert ran.returncode == 1
    assert "ErrorBudgetBurn" in ran.stdout + ran.stderr


@needs_promtool
def test_another_promise_is_another_alert(tmp_path: Path) -> None:
    changed = SLO.model_dump()
    changed["workloads"]["typical"] |= {"latency_ms": {"p95": 2000}, "error_rate": 0.01}
    slo = Slo.model_validate(changed)
    series = {**chats(slo, 600, {"p95": 0.75}), **errors(engine=18)}
    fires = only(P95_FAST, P95, P95_SLOW, SLOW)
    case = Case("of another promise", series, fires, at="2h")
    ran = run(tmp_path, slo, document(case, slo, tmp_path / "rules"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_figures_that_are_recorded(tmp_path: Path) -> None:
    series = {**chats(SLO, 600, {"p50": 0.4, "p95": 0.1}), **errors(engine=6, limited=60)}
    case = document(Case("figures", series), SLO, tmp_path / "rules")
    bad = 6 / 606
    slow = 'stack:slow:ratio5m{percentile="p95"}'
    expected = {
        "stack:errors:ratio5m": ("stack:errors:ratio5m", bad),
        "model:errors:ratio5m": ('model:errors:ratio5m{model="m"}', bad),
        slow: (slow, 0.1),
        'stack:within_target:ratio5m{percentile="p50"}': (
            'stack:within_target:ratio5m{percentile="p50"}',
            0.6,
        ),
        'stack:error_budget_left:ratio{promise="errors"}': (
            'stack:error_budget_left:ratio{promise="errors"}',
            1 - bad / 0.001,
        ),
        'stack:error_budget_left:ratio{percentile="p95"}': (
            'stack:error_budget_left:ratio{promise="latency",percentile="p95"}',
            1 - 0.1 / 0.05,
        ),
        "model:answer_tokens_per_second:avg5m": (
            'model:answer_tokens_per_second:avg5m{model="m"}',
            50,
        ),
    }
    case["tests"][0]["promql_expr_test"] = [
        {
            "expr": f"round({expression}, 0.0001)",
            "eval_time": "30m",
            "exp_samples": [{"labels": _without_name(labels), "value": round(value, 4)}],
        }
        for expression, (labels, value) in expected.items()
    ]
    ran = run(tmp_path, SLO, case)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _without_name(series: str) -> str:
    return "{" + series.partition("{")[2] if "{" in series else "{}"


@needs_promtool
def test_what_an_alert_says(tmp_path: Path) -> None:
    slow = {f"llamacpp:tokens_predicted_total{{{ENGINE}}}": every(800)}
    case = document(Case("speed", slow), SLO, tmp_path / "rules")
    del case["tests"][0]["promql_expr_test"]
    case["tests"][0]["alert_rule_test"] = [
        {
            "eval_time": "30m",
            "alertname": "EngineOnCpu",
            "exp_alerts": [
                {
                    "exp_labels": {
                        "severity": "page",
                        "sign": "speed",
                        "job": "llama-cpp",
                        "instance": "e:8080",
                    },
                    "exp_annotations": {
                        "summary": "An engine is as slow as a CPU, on a machine that has a GPU.",
                        "description": "e:8080 makes 2 tokens/s in each busy slot.",
                        "runbook_url": "docs/runbooks.md#engineoncpu",
                    },
                }
            ],
        }
    ]
    ran = run(tmp_path, SLO, case)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert PROGRAM is not None
    checked = subprocess.run(
        [PROGRAM, "check", "rules", "--lint=all", "--lint-fatal", *map(str, FOLDER.glob("*.yml"))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
