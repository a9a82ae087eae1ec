"""Lines of coloured pieces, cut to the width, and what is left out where they do not fit. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "bad", "warn", "faint", "strong"]

# Colours that can be read on black and on white; what they say is said in words as well.
_CODES: dict[Tone, str] = {
    "good": "32",
    "bad": "1;31",
    "warn": "35",
    "faint": "2",
    "strong": "1",
}


@dataclass(frozen=True)
class Piece:
    text: str
    tone: Tone = ""


Line = tuple[Piece, ...]


def line(*parts: str | Piece) -> Line:
    """Pieces, or texts without a tone."""
    return tuple(part if isinstance(part, Piece) else Piece(part) for part in parts)


@dataclass(frozen=True)
class Section:
    """Lines that are shown together or not at all; the least important go first.

    A section without a name goes without a word.
    """

    importance: int
    name: str
    lines: Sequence[Line] = field(default=((),))


def fitted(sections: Sequence[Section], rows: int | None, columns: int) -> list[Line]:
    """As many sections as `rows` hold (None: all), and a last line with what is left out."""
    kept, left_out = list(sections), list[Section]()
    while rows is not None and len(kept) > 1 and _height(kept, left_out) > rows:
        last = min(reversed(kept), key=lambda section: section.importance)
        kept.remove(last)
        left_out.insert(0, last)
    lines = [each for section in kept for each in section.lines]
    if names := [section.name for section in sections if section in left_out and section.name]:
        lines.append(line(Piece(_left_out(names, columns), "warn")))
    return lines if rows is None else lines[:rows]


def _left_out(names: Sequence[str], columns: int) -> str:
    for told in range(len(names), -1, -1):
        more = [f"{len(names) - told} more"] if told < len(names) else []
        text = f"left out: {', '.join([*names[:told], *more])}"
        if len(text) <= columns:
            return text
    return "left out"


def _height(kept: Sequence[Section], left_out: Sequence[Section]) -> int:
    named = any(section.name for section in left_out)
    return sum(len(section.lines) for section in kept) + named


def painted(parts: Line, width: int, *, colours: bool) -> str:
    """One line of text, no wider than `width` letters."""
    text = ""
    for part in parts:
        shown = part.text[:width]
        width -= len(shown)
        code = _CODES.get(part.tone) if colours else None
        text += f"\x1b[{code}m{shown}\x1b[0m" if code and shown else shown
    return text
