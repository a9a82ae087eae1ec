"""Plays series to the rules with `promtool test rules`, and says which alerts fire."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monitoring.expressions import promise
from monitoring.generating import write
from monitoring.rules import rule_files
from monitoring.slo import Slo

PROGRAM = shutil.which("promtool")
MISSING = "there is no promtool on PATH (Debian and Ubuntu: apt install prometheus)"

KINDS = ("engine", "gateway", "shed", "limited", "client", "left")
_STEPS = "STEPS"
"""In the place of how long a series goes on, which its case decides."""

_SHOWN = ("alertname", "percentile", "sign", "window")


def _of(operation: str) -> str:
    return f'gen_ai_operation_name="{operation}",gen_ai_request_model="m"'


def every(value: float, since: float = 0) -> str:
    """A counter that grows by this in each step of a minute, or a gauge that always is this."""
    return f"{since:g}{value:+g}x{_STEPS}"


def always(value: float) -> str:
    """A gauge."""
    return every(0, value)


def chats(
    slo: Slo,
    a_minute: float,
    slow: Mapping[str, float] | None = None,
    *,
    error: str = "",
    operation: str = "chat",
) -> dict[str, str]:
    """Whole chats, and which share of them is slower than the target of a percentile.

    `error` is the error_type of chats that have none of their answer.
    """
    targets = promise(slo).latency_ms
    within = {
        f"{milliseconds / 1000:g}": a_minute * (1 - (slow or {}).get(name, 0))
        for name, milliseconds in targets.items()
    }
    name = "gen_ai_server_request_duration_seconds"
    labels = f'{_of(operation)},error_type="{error}"'
    buckets = {**within, "+Inf": a_minute}
    return {
        f'{name}_bucket{{{labels},le="{le}"}}': every(count) for le, count in buckets.items()
    } | {f"{name}_count{{{labels}}}": every(a_minute)}


def errors(operation: str = "chat", /, **a_minute: float) -> dict[str, str]:
    """Requests without an answer, by kind."""
    return {
        f'llm_gateway_errors_total{{model="m",kind="{kind}",operation="{operation}"}}': every(
            a_minute.get(kind, 0)
        )
        for kind in KINDS
    }


def in_order(slo: Slo) -> dict[str, str]:
    """A stack with which nothing is wrong."""
    replica = 'model="m",replica="e:8080"'
    return {
        'up{job="api-server",instance="gw:8000"}': always(1),
        'up{job="llama-cpp",instance="e:8080"}': always(1),
        "llm_gateway_workers": always(2),
        **chats(slo, 600),
        **errors(),
        "gen_ai_server_time_per_output_token_seconds_count{" + _of("chat") + "}": every(600),
        "gen_ai_server_time_per_output_token_seconds_sum{" + _of("chat") + "}": every(12),
        'llm_gateway_queue_wait_seconds_bucket{model="m",operation="chat",le="0.1"}': every(600),
        'llm_gateway_queue_wait_seconds_bucket{model="m",operation="chat",le="10"}': every(600),
        'llm_gateway_queue_wait_seconds_bucket{model="m",operation="chat",le="+Inf"}': every(600),
        'llm_gateway_oldest_queued_seconds{model="m"}': always(0.2),
        "llm_gateway_oldest_job_seconds": always(3),
        "llm_gateway_replica_sound{" + replica + "}": always(2),
        f'llm_gateway_breaker_state{{{replica},state="closed"}}': always(2),
        f'llm_gateway_breaker_state{{{replica},state="open"}}': always(0),
        f'llm_gateway_breaker_state{{{replica},state="half-open"}}': always(0),
        'llm_gateway_dependency_state{dependency="redis",state="down"}': always(0),
        'llm_gateway_dependency_state{dependency="postgres",state="down"}': always(0),
        "llm_gateway_spool_rows": always(40),
        'llm_gateway_ledger_lost_total{reason="disk"}': always(3),
        'llm_gateway_disk_free_bytes{instance="gw:8000"}': always(50e9),
        'llm_gateway_disk_size_bytes{instance="gw:8000"}': always(100e9),
        'llm_gateway_event_loop_lag_seconds_bucket{instance="gw:8000",le="0.01"}': every(120),
        'llm_gateway_event_loop_lag_seconds_bucket{instance="gw:8000",le="1"}': every(120),
        'llm_gateway_event_loop_lag_seconds_bucket{instance="gw:8000",le="+Inf"}': every(120),
        'llamacpp:requests_processing{job="llama-cpp",instance="e:8080"}': always(8),
        'llamacpp:requests_deferred{job="llama-cpp",instance="e:8080"}': always(1),
        'llamacpp:tokens_predicted_total{job="llama-cpp",instance="e:8080"}': every(12_000),
        'llamacpp:tokens_predicted_seconds_total{job="llama-cpp",instance="e:8080"}': every(400),
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': always(90),
        'haproxy_backend_active_servers{proxy="gateways",instance="front:8405"}': always(1),
    }


@dataclass(frozen=True)
class Case:
    """Something happens to a stack that is in order: `series` are other than they were.

    `fires` is what is to be heard `at` that time: names of alerts, with their labels `percentile`,
    `sign`, `window` where they have them, after a colon. `gone` are series that there are not.
    """

    name: str
    series: Mapping[str, str] = field(default_factory=dict)
    fires: frozenset[str] = frozenset()
    at: str = "30m"
    gone: tuple[str, ...] = ()


def document(case: Case, slo: Slo, rules: Path) -> Any:
    """Of one case, as promtool reads it."""
    series = {
        name: values for name, values in in_order(slo).items() if not name.startswith(case.gone)
    } | dict(case.series)
    steps = {"8h": "500", "3d": "4400"}.get(case.at, "130")
    is_long = case.at in ("8h", "3d")
    samples = []
    for each in sorted(case.fires):
        name, _, rest = each.partition(":")
        labels = "".join(f',{pair.replace("=", "=" + chr(34))}"' for pair in rest.split() if pair)
        samples.append({"labels": f'{{alertname="{name}"{labels}}}', "value": 1})
    return {
        "rule_files": [str(rules / "*.yml")],
        # Groups are evaluated in no order: what one records must still be there at the next turn.
        "evaluation_interval": "4m" if is_long else "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values.replace(_STEPS, steps)}
                    for name, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'group by ({", ".join(_SHOWN)}) (ALERTS{{alertstate="firing"}})',
                        "eval_time": case.at,
                        "exp_samples": samples,
                    }
                ],
            }
        ],
    }


def run(folder: Path, slo: Slo, document_: Any) -> subprocess.CompletedProcess[str]:
    """Of one document, with the rules of this promise, which are in `folder`/rules then."""
    assert PROGRAM is not None
    write(folder / "rules", rule_files(slo))
    path = folder / "case.yml"
    path.write_text(yaml.safe_dump(document_))
    return subprocess.run(
        [PROGRAM, "test", "rules", str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
