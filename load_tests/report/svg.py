"""Elements, scales and axes of pictures, as text. Pure; colours are classes of style.css."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

CHARACTER = 6.6
"""Of a label, in pixels; rather too wide."""


def tag(name: str, *children: str, **attributes: str | float) -> str:
    """An element; children are markup. `class_` and `stroke_width` become names with dashes."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{''.join(children)}</{name}>"


def label(words: str, x: float, y: float, anchor: str = "start", class_: str = "label") -> str:
    """Text; its end is at `x` where the anchor is `end`."""
    return tag("text", escape(words), x=x, y=y, text_anchor=anchor, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> str:
    """A line through the points; a single one is a dot."""
    if len(points) == 1:
        return tag("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"{class_} dot mark")
    steps = " ".join(f"{'L' if at else 'M'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
    return tag("path", d=steps, class_=f"{class_} line mark")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, evenly or by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Within the picture, whatever the value."""
        bounded = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(bounded / self.low) / math.log(self.high / self.low)
        else:
            share = (bounded - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values, at most so many of them."""
        return _log_ticks(self.low, self.high, most) if self.is_log else self._even_ticks(most)

    def _even_ticks(self, most: int) -> list[float]:
        step = nice((self.high - self.low) / max(1, most - 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not less."""
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(each * magnitude for each in (1, 2, 5, 10) if each * magnitude >= value * 0.999999)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3), (1,)):
        found = [part * 10.0**power for power in decades for part in parts]
        found = [each for each in found if low * 0.999 <= each <= high * 1.001]
        if len(found) <= most:
            break
    return found


def scale_for(
    values: Iterable[float], start: float, end: float, *, may_be_log: bool = False
) -> Scale:
    """From 0 to a little above the highest; by logarithms where they differ too much for that."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found), max(found)
    if may_be_log and high / low > 20:
        return Scale(low / 1.3, high * 1.3, start, end, is_log=True)
    return Scale(0.0, high * 1.08, start, end)


@dataclass(frozen=True, slots=True)
class Frame:
    """The room of a picture, in pixels, and what its axes take of it."""

    width: float
    height: float
    left: float = 58
    right: float = 14
    top: float = 12
    bottom: float = 42

    @property
    def x_end(self) -> float:
        return self.width - self.right

    @property
    def y_start(self) -> float:
        return self.height - self.bottom

    @property
    def x_ticks(self) -> int:
        return max(4, int((self.x_end - self.left) / 54))

    def y_scale(self, values: Iterable[float], *, may_be_log: bool = False) -> Scale:
        return scale_for(values, self.y_start, self.top, may_be_log=may_be_log)

    def x_scale(self, low: float, high: float) -> Scale:
        return Scale(low, high if high > low else low + 1, self.left, self.x_end)

    def whole(self, title: str, description: str, *parts: str) -> str:
        """The picture, with its words for those who do not see it."""
        return tag(
            "svg",
            tag("title", escape(title)),
            tag("desc", escape(description)),
            *parts,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=f"{title}. {description}",
        )

    def y_axis(self, scale: Scale, words: Callable[[float], str], *, most: int = 6) -> str:
        """Lines across, and their values."""
        parts = []
        for value in scale.ticks(most):
            y = scale.at(value)
            parts.append(tag("line", x1=self.left, x2=self.x_end, y1=y, y2=y, class_="grid"))
            parts.append(label(words(value), self.left - 6, y + 4, "end"))
        return "".join(parts)

    def x_axis(self, ticks: Iterable[tuple[float, str]], title: str) -> str:
        """Values at pixels below the picture; one that would touch its neighbour is left out."""
        y, taken, parts = self.y_start, -1e9, []
        parts.append(tag("line", x1=self.left, x2=self.x_end, y1=y, y2=y, class_="axis"))
        for x, words in ticks:
            half = CHARACTER * len(words) / 2
            middle = min(max(x, self.left - 20 + half), self.width - half - 1)
            if middle - half < taken + 6:
                continue
            taken = middle + half
            parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
            parts.append(label(words, middle, y + 17, "middle"))
        centre = (self.left + self.x_end) / 2
        parts.append(label(title, centre, self.height - 6, "middle", "label title"))
        return "".join(parts)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those that are wanted, so far from each other, between two bounds."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places = [min(max(each, low), high) for each in wanted]
    for before, after in itertools.pairwise(order):
        places[after] = max(places[after], places[before] + gap)
    for after, before in itertools.pairwise(order[::-1]):
        places[after] = min(places[after], high)
        places[before] = min(places[before], places[after] - gap)
    return places
