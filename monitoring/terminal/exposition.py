"""Reads Prometheus' text format (version 0.0.4). Pure; timestamps are passed over."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""

Series = Mapping[str, Mapping[Labels, float]]
"""The name of a sample, then its labels, to its value."""

_NAME = r"[A-Za-z_:][A-Za-z0-9_:]*"
_SAMPLE = re.compile(
    rf'({_NAME})(?:[ \t]*\{{((?:[^"}}]|"(?:[^"\\]|\\.)*")*)\}}[ \t]*|[ \t]+)'
    r"(\S+)(?:[ \t]+-?\d+)?"
)
_LABEL = re.compile(r'[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
_TYPE = re.compile(rf"#[ \t]+TYPE[ \t]+({_NAME})[ \t]+(\w+)[ \t]*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MEANT = {"n": "\n", "\\": "\\", '"': '"'}


class ExpositionError(ValueError):
    """A line is none of the format; says which."""


@dataclass(frozen=True)
class Exposition:
    """All samples of one answer; `kinds` has the type of each family that says one."""

    kinds: Mapping[str, str]
    series: Series


def parse(text: str) -> Exposition:
    """Raises `ExpositionError`."""
    kinds: dict[str, str] = {}
    series: dict[str, dict[Labels, float]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if not stripped:
            continue
        if stripped.startswith("#"):
            if told := _TYPE.fullmatch(stripped):
                kinds[told[1]] = told[2]
            continue
        found = _SAMPLE.fullmatch(stripped)
        try:
            if found is None:
                raise ValueError("no sample")
            series.setdefault(found[1], {})[_labels(found[2] or "")] = _value(found[3])
        except ValueError as exc:
            raise ExpositionError(f"line {number} of the metrics: {exc}: {line[:80]!r}") from exc
    return Exposition(kinds, series)


def _labels(text: str) -> Labels:
    pairs: list[tuple[str, str]] = []
    place = 0
    while place < len(text.rstrip(" \t")):
        found = _LABEL.match(text, place)
        if found is None:
            raise ValueError("labels that are none")
        pairs.append((found[1], _ESCAPED.sub(_unescape, found[2])))
        place = found.end()
    return tuple(sorted(pairs))


def _unescape(found: re.Match[str]) -> str:
    return _MEANT.get(found[1], found[0])


def _value(text: str) -> float:
    if "_" in text:  # float() takes 1_000, the format does not
        raise ValueError("no number")
    return float(text)
