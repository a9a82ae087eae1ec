"""Which loads make the proof, as command lines of `load_tests`, and their times. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCENARIOS = ("short", "medium", "long")
USUAL_SECONDS = 40.0
"""Beside the load itself: the load tester's start, its questions, the last answers."""

MOST_SECONDS = 150.0
"""The same far beyond what the engine carries: the last request ends after its time-out."""

WARM_UP = "warm-up"
ALONE = "one-at-a-time"
FULL = "twice-the-slots"
KNEE = "knee"


@dataclass(frozen=True)
class Load:
    """One call of the load tester. It is begun with `usual_seconds` left, and given up after
    `most_seconds`.
    """

    name: str
    arguments: tuple[str, ...]
    usual_seconds: float
    most_seconds: float


def loads_of(rates: Sequence[float], seconds: float, slots: int) -> list[Load]:
    """In order: the engine warm, alone and full, then every scenario at every rate."""
    found = [
        _closed(WARM_UP, "short,medium", slots, min(5.0, seconds)),
        _closed(ALONE, "medium", 1, seconds),
        _closed(FULL, "medium", 2 * slots, seconds),
    ]
    for scenario in SCENARIOS:
        for rate in rates:
            arguments = (
                "--scenario",
                scenario,
                "--rate",
                f"{rate:g}",
                "--duration",
                f"{seconds:g}",
            )
            found.append(_load(f"{scenario}-{rate:g}", arguments, seconds))
    return found


def _closed(name: str, scenario: str, users: int, seconds: float) -> Load:
    arguments = ("--scenario", scenario, "--concurrency", str(users), "--duration", f"{seconds:g}")
    return _load(name, arguments, seconds)


def _load(name: str, arguments: tuple[str, ...], seconds: float) -> Load:
    return Load(name, arguments, seconds + USUAL_SECONDS, seconds + MOST_SECONDS)


def knee_of(seconds: float) -> Load:
    """The load tester's own search for the highest rate that keeps the promise, for so long."""
    arguments = ("--find-capacity", "--search-seconds", f"{seconds:g}")
    return Load(KNEE, arguments, seconds + USUAL_SECONDS, 2 * seconds)


def command(load: Load, gateway: str, out: Path) -> list[str]:
    """What follows `python -m load_tests`."""
    return ["--host", gateway, *load.arguments, "--out", str(out)]


def is_worth_starting(load: Load, left_seconds: float | None) -> bool:
    """Whether it would usually end within what is left of the call."""
    return left_seconds is None or load.usual_seconds <= left_seconds
