"""What figures were over the last minutes, as lines of small bars. Pure but for what is kept."""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MOST_POINTS = 4096
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.:-=+*#"
"""For terminals that know nothing but ASCII."""


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of the time from `began` to `ended`; None where there was nothing to count."""

    began: float
    ended: float
    values: Mapping[str, float | None]


class Trends:
    """The points of the last `seconds`, no more than `MOST_POINTS`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)

    def add(self, point: Point) -> None:
        self._points.append(point)
        while self._points[0].ended < point.ended - self.seconds:
            self._points.popleft()

    def columns(self, name: str, now: float, width: int) -> list[float | None]:
        """The figure `name`, oldest first, over as many columns."""
        return columns(self._points, name, now, self.seconds, width)


def columns(
    points: Iterable[Point], name: str, now: float, seconds: float, width: int
) -> list[float | None]:
    """Each column is the largest value of its time, so that no peak is lost; None without one."""
    found: list[float | None] = [None] * width
    for point in points:
        value = point.values.get(name)
        if value is None:
            continue
        first = math.floor((point.began - (now - seconds)) / seconds * width)
        last = math.ceil((point.ended - (now - seconds)) / seconds * width) - 1
        for place in range(max(0, min(first, last)), min(width - 1, last) + 1):
            before = found[place]
            found[place] = value if before is None else max(before, value)
    return found


def bars(values: Sequence[float | None], glyphs: str = BARS) -> str:
    """A letter for each value, from 0 to the largest of them; a blank where there is none."""
    largest = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else glyphs[_height(value, largest, len(glyphs))] for value in values
    )


def _height(value: float, largest: float, heights: int) -> int:
    if largest <= 0 or value <= 0:
        return 0
    return min(heights - 1, math.ceil(value / largest * heights) - 1)
