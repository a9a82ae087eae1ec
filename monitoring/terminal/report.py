"""What `--once --json` prints, and the exit code. Pure."""

from datetime import UTC, datetime
from typing import Any

from monitoring.terminal.figures import Quantiles
from monitoring.terminal.verdict import is_missed
from monitoring.terminal.watch import View

SCHEMA_VERSION = 1
WELL, NOT_WELL, NOT_REACHABLE = 0, 1, 2


def exit_code(view: View) -> int:
    """0: well; 1: a target is missed, or who answers is no gateway; 2: nobody answers.

    A gateway without requests is well.
    """
    if view.trouble is not None:
        return NOT_WELL if view.trouble.is_reachable else NOT_REACHABLE
    return NOT_WELL if view.silent or is_missed(list(view.verdicts)) else WELL


def document(view: View, taken_at: datetime) -> dict[str, Any]:
    """All keys are there always; seconds, shares and counts, never text with a unit.

    `figures` is null where the gateway did not answer both times. Raises nothing.
    """
    code = exit_code(view)
    trouble, health = view.trouble, view.health
    return {
        "schema_version": SCHEMA_VERSION,
        "taken_at": taken_at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "url": view.url,
        "model": view.model,
        "is_well": code == WELL,
        "state": ("ok", "not_ok", "not_reachable")[code],
        "problem": trouble.text if trouble is not None else None,
        "silent_gateways": list(view.silent),
        "requests_ever": view.requests_ever if view.taken is not None else None,
        "health": None
        if health is None
        else {
            "status": health.status,
            "version": health.version,
            "models": list(health.models),
            "unready_models": list(health.unready),
        },
        "targets": [
            {
                "name": each.name,
                "target": each.target,
                "value": each.value,
                "is_met": each.is_met,
            }
            for each in view.verdicts
        ],
        "figures": None if trouble is not None else _figures(view),
    }


def _figures(view: View) -> dict[str, Any] | None:
    now, lately = view.now, view.lately
    if now is None or lately is None:
        return None
    return {
        "seconds": round(lately.seconds, 3),
        "restarts": lately.restarts,
        "requests": lately.requests,
        "background_requests": lately.background,
        "answered": lately.answered,
        "requests_per_second": round(lately.requests_per_second, 3),
        "latency_seconds": _quantiles(lately.latency),
        "first_token_seconds": _quantiles(lately.first_token),
        "queue_wait_seconds": _quantiles(lately.queue_wait),
        "input_tokens_per_second": round(lately.input_tokens_per_second, 3),
        "output_tokens_per_second": round(lately.output_tokens_per_second, 3),
        "error_rate": lately.error_rate,
        "errors_by_kind": dict(lately.errors_by_kind),
        "shed_by_reason": dict(lately.shed_by_reason),
        "limited_by_limit": dict(lately.limited_by_limit),
        "cancelled_by_phase": dict(lately.cancelled_by_phase),
        "queued": now.queued,
        "oldest_queued_seconds": now.oldest_queued_seconds,
        "in_flight": now.in_flight,
        "slots_busy": now.slots_busy,
        "slots": now.slots,
        "jobs_waiting": now.jobs_waiting,
        "jobs_running": now.jobs_running,
        "oldest_job_seconds": now.oldest_job_seconds,
        "spool_rows": now.spool_rows,
        "ledger_rows_lost": lately.ledger_rows_lost,
        "workers": now.workers,
        "dependencies_down": list(now.dependencies_down),
        "replicas_unwell": list(now.replicas_unwell),
    }


def _quantiles(found: Quantiles) -> dict[str, Any]:
    return {"count": found.count, **found.seconds}
