"""How long a job will wait, and in which order jobs come. Pure."""

from api_server.schemas.apps import Priority

WHOLE = 1_000_000
FACTORS: dict[Priority, int] = {"interactive": 16, "default": 4, "batch": 1}
"""Of an app's jobs of these classes so many are done in the same time, while all of them wait."""


def step_of(weight: float, priority: Priority) -> int:
    """How much of the order a job takes: the more its app may have, the less.

    A job's place is one step behind the last one of its app and class, or behind the one that is
    done now. So each flow gets its share, and nobody waits for another's whole backlog.
    """
    return max(1, round(WHOLE / (weight * FACTORS[priority])))


def class_of(wanted: Priority | None, own: Priority) -> Priority:
    """What a client asks for, but never more urgent than what its app has."""
    if wanted is None:
        return own
    return wanted if FACTORS[wanted] <= FACTORS[own] else own


def wait_seconds(position: int, slots: int, mean_seconds: float | None) -> float | None:
    """Until the job at this position begins, by what jobs took lately; None where nobody knows."""
    if slots <= 0 or mean_seconds is None:
        return None
    return position * mean_seconds / slots


def words(seconds: float | None) -> str:
    """For a person: `less than a minute`, `2-3 minutes`, `10-15 minutes`, `1-2 hours`."""
    if seconds is None:
        return "not known yet"
    if seconds < 60:
        return "less than a minute"
    minutes = int(seconds // 60)
    if minutes < 10:
        return f"{minutes}-{minutes + 1} minutes"
    if minutes < 60:
        low = minutes // 5 * 5
        return f"{low}-{low + 5} minutes"
    hours = minutes // 60
    return f"{hours}-{hours + 1} hours" if hours < 24 else "more than a day"
