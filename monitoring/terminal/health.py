"""What `/health` says, as far as the monitor shows it. Pure."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """`status` is ok, degraded or down; `models` are all, `unready` those without an engine."""

    status: str
    version: str
    uptime_seconds: float
    models: tuple[str, ...]
    unready: tuple[str, ...]


def read_health(body: bytes) -> Health | None:
    """None where it is no such document, which is no reason to show nothing else."""
    try:
        told = json.loads(body)
        ready = {str(model["id"]): bool(model["is_ready"]) for model in told["models"]}
        return Health(
            status=str(told["status"]),
            version=str(told["version"]),
            uptime_seconds=float(told["uptime_seconds"]),
            models=tuple(sorted(ready)),
            unready=tuple(sorted(name for name, is_ready in ready.items() if not is_ready)),
        )
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
