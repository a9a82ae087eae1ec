"""When requests are sent, or how many users there are: shapes over time, Poisson arrivals. Pure."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

Kind = Literal["constant", "step", "ramp", "spike", "soak"]
KINDS: tuple[Kind, ...] = get_args(Kind)

STEPS = 5
PEAK = 4.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A level (requests a second, or users) over so many seconds; None: without an end.

    step: five steps up to the level; ramp: from nothing up to it, evenly; spike: four times the
    level in the middle fifth; soak: the level, for long.
    """

    kind: Kind
    level: float
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.level <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise ValueError("a level and a duration must be above 0")
        if self.seconds is None and self.kind != "constant":
            raise ValueError(f"a {self.kind} needs a duration")

    def at(self, second: float) -> float:
        """The level at this time; 0 after the end."""
        if self.seconds is None:
            return self.level
        share = second / self.seconds
        if not 0 <= share < 1:
            return 0.0
        if self.kind == "step":
            return self.level * (int(share * STEPS) + 1) / STEPS
        if self.kind == "ramp":
            return self.level * share
        if self.kind == "spike":
            return self.level * (PEAK if 0.4 <= share < 0.6 else 1)
        return self.level

    @property
    def highest(self) -> float:
        return self.level * (PEAK if self.kind == "spike" else 1)


def arrivals(shape: Shape, seed: int) -> Iterator[float]:
    """Seconds at which requests arrive, as a Poisson process whose rate follows the shape."""
    random = Random(f"{seed}/arrivals")  # noqa: S311
    highest, now = shape.highest, 0.0
    while True:
        now += random.expovariate(highest)
        if shape.seconds is not None and now >= shape.seconds:
            return
        # Thinning: of arrivals at the highest rate, those are kept that the shape allows.
        if random.random() * highest < shape.at(now):
            yield now


def mixed(weights: Mapping[str, float], seed: int) -> Iterator[tuple[str, int]]:
    """Scenarios in a seeded order, each with its number among those of its kind."""
    random = Random(f"{seed}/scenarios")  # noqa: S311
    names, shares = list(weights), list(weights.values())
    numbers = {name: itertools.count() for name in names}
    while True:
        for name in random.choices(names, shares, k=64):
            yield name, next(numbers[name])
