"""Does the engine really work on many requests at once? From its counters and its log. Pure."""

import re
from dataclasses import dataclass

LEAST_SHARE = 0.8
"""Of the slots, busy on average while more clients wait than there are slots."""

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")


@dataclass(frozen=True)
class Counters:
    """What llama-server has counted since it began."""

    decodes: float
    busy_slots: float
    """The sum over decodes."""


def counters_of(metrics: str) -> Counters:
    """From the text of its /metrics. Raises ValueError for what is missing there."""
    values = dict(_samples(metrics))
    try:
        decodes = values["llamacpp:n_decode_total"]
        return Counters(
            decodes=decodes,
            busy_slots=values["llamacpp:n_busy_slots_per_decode"] * decodes,
        )
    except KeyError as exc:
        raise ValueError(f"the engine's /metrics has no {exc}") from exc


def _samples(metrics: str) -> list[tuple[str, float]]:
    lines = [line.split() for line in metrics.splitlines() if line and not line.startswith("#")]
    return [(parts[0], float(parts[1])) for parts in lines if len(parts) == 2]


@dataclass(frozen=True)
class Batching:
    """What happened between two looks."""

    slots: int
    decodes: int
    busy_per_decode: float

    @property
    def is_full(self) -> bool:
        return self.decodes > 0 and self.busy_per_decode >= LEAST_SHARE * self.slots

    def as_dict(self) -> dict[str, float | bool]:
        """For the report."""
        return {
            "slots": self.slots,
            "decodes": self.decodes,
            "busy_per_decode": round(self.busy_per_decode, 2),
            "is_full": self.is_full,
        }


def between(before: Counters, after: Counters, slots: int) -> Batching:
    """Raises ValueError when the counters ran backwards: the engine began anew."""
    decodes = after.decodes - before.decodes
    if decodes < 0:
        raise ValueError("the engine was started anew in between")
    busy = (after.busy_slots - before.busy_slots) / decodes if decodes else 0.0
    return Batching(slots, int(decodes), busy)


def offloaded(log: str) -> tuple[int, int] | None:
    """Layers on the GPU, of how many, as llama-server's log says; None when it does not."""
    found = _OFFLOADED.search(log)
    return (int(found[1]), int(found[2])) if found else None
