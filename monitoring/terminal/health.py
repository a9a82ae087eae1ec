"""What `/health` says, as far as the monitor shows it. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

_WORST_FIRST = ("down", "degraded", "ok")


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


def of_all(told: Sequence[Health | None]) -> Health | None:
    """Of several gateways: the worst that one says, and since when the newest is up."""
    known = [each for each in told if each is not None]
    if not known:
        return None
    worst = [name for name in _WORST_FIRST if any(each.status == name for each in known)]
    return Health(
        status=worst[0] if worst else known[0].status,
        version=", ".join(sorted({each.version for each in known})),
        uptime_seconds=min(each.uptime_seconds for each in known),
        models=tuple(sorted({name for each in known for name in each.models})),
        unready=tuple(sorted({name for each in known for name in each.unready})),
    )
