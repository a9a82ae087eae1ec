"""The pictures of one run: each a pure function of samples, for a width in pixels.

A picture without data is not drawn: it says why instead.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from load_tests.figures import percentile
from load_tests.report.svg import CHARACTER, Frame, Scale, apart, label, path, tag
from load_tests.report.where import PARTS, Split
from load_tests.report.words import milliseconds, number
from load_tests.samples import Sample

WIDE, NARROW = 620.0, 344.0
HEIGHT = 300.0
PERCENTS = (50.0, 95.0, 99.0)
BARS = 40
POINTS = 100
GOALS = 42.0
"""Pixels at the right, for the names of targets."""

LEAST_IN_POINT = 50
"""So many answers on average; of fewer, p95 and p99 would be the same one."""

Targets = Mapping[float, float]
"""Seconds by percent."""

Draw = Callable[[float], str]
"""A picture of this width."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, or why there is none. `legend`: class of style.css and words, of each line."""

    title: str
    caption: str
    draw: Draw | None
    legend: Sequence[tuple[str, str]] = ()


def nothing(title: str, why: str) -> Picture:
    """In the place of a picture."""
    return Picture(title, why, None)


def good_latencies(samples: Iterable[Sample]) -> list[float]:
    """In order."""
    return sorted(sample.latency for sample in samples if sample.outcome == "ok")


def distribution(samples: Sequence[Sample], targets: Targets) -> Picture:
    """How many answers took how long."""
    title, latencies = "Latency distribution", good_latencies(samples)
    if not latencies:
        return nothing(title, "No request was answered, so there is no latency.")
    said = ", ".join(
        f"{percent:g} % within {milliseconds(percentile(latencies, percent))}"
        for percent in PERCENTS
    )
    # A few that are very slow, or a target far away, would make one bar of all others.
    slow = percentile(latencies, 99)
    named = sorted((each for each in targets.items() if each[1] <= 4 * slow), key=lambda e: e[1])
    most = max([1.15 * slow, *(1.1 * seconds for _, seconds in named)])
    away = ", ".join(milliseconds(each) for each in sorted(targets.values()) if each > 4 * slow)

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT, top=26)
        size = most / BARS
        counts = Counter(min(BARS - 1, int(value / size)) for value in latencies)
        x, y = frame.x_scale(0, most), frame.y_scale(map(float, counts.values()))
        bars = [
            tag(
                "rect",
                tag("title", f"{count} answers in about {milliseconds((bar + 0.5) * size)}"),
                x=x.at(bar * size) + 0.5,
                y=y.at(count),
                width=max(1.0, x.at((bar + 1) * size) - x.at(bar * size) - 1),
                height=max(1.0, frame.y_start - y.at(count)),
                class_="bar mark",
            )
            for bar, count in sorted(counts.items())
        ]
        wide = CHARACTER * len("p99 target")
        low, high = frame.left + wide / 2, frame.x_end - wide / 2
        places = apart([x.at(seconds) for _, seconds in named], wide + 4, low, high)
        lines = [
            tag(
                "line", x1=x.at(seconds), x2=x.at(seconds), y1=22, y2=frame.y_start, class_="target"
            )
            + label(f"p{percent:g} target", place, 16, "middle", "label goal")
            for (percent, seconds), place in zip(named, places, strict=True)
        ]
        axis = frame.x_axis(_time_ticks(x, frame.x_ticks), "latency (the last bar: and more)")
        across = frame.y_axis(y, number)
        return frame.whole(title, said, across, *bars, *lines, axis)

    caption = f"{len(latencies):,} answers, from the intended time to the last byte: {said}."
    if away:
        caption += f" Far to the right of the picture: targets of {away}."
    legend = [("bar", "answers"), *([("target", "target")] if named else [])]
    return Picture(title, caption, draw, legend)


def by_percentile(samples: Sequence[Sample], targets: Targets) -> Picture:
    """Latency against the share of answers that were faster; the right end is the slow tail."""
    title, latencies = "Latency by percentile", good_latencies(samples)
    if not latencies:
        return nothing(title, "No request was answered, so there is no latency.")
    stops = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
    fine = [percent / 10 for percent in range(10, 1000)]
    shown = [each for each in fine if each <= 90 or (100 - each) / 100 * len(latencies) >= 1]
    said = ", ".join(
        f"p{percent:g} {milliseconds(percentile(latencies, percent))}" for percent in PERCENTS
    )

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT)
        room = (frame.x_end - frame.left) / (len(stops) - 1)

        def x_at(percent: float) -> float:
            after = min(len(stops) - 1, bisect_right(stops, percent))
            low, high = stops[after - 1], stops[after]
            return frame.left + room * (after - 1 + (min(percent, high) - low) / (high - low))

        values = [percentile(latencies, each) for each in shown]
        y = frame.y_scale([*values, *targets.values()], may_be_log=True)
        points = [(x_at(each), y.at(value)) for each, value in zip(shown, values, strict=True)]
        marks = []
        for percent, seconds in sorted(targets.items()):
            x, height = x_at(percent), y.at(seconds)
            half = room * 0.45
            marks.append(
                tag("line", x1=x - half, x2=x + half, y1=height, y2=height, class_="target")
            )
            words = milliseconds(seconds)
            edge = min(x, frame.width - CHARACTER * len(words) / 2 - 1)
            marks.append(label(words, edge, height - 5, "middle", "label goal"))
        axis = frame.x_axis(
            [(x_at(each), f"{each:g} %") for each in stops], "share of answers that were faster"
        )
        return frame.whole(
            title, said, frame.y_axis(y, milliseconds), path(points, "s1"), *marks, axis
        )

    legend = (("s1", "measured"), ("target", "target at its percentile"))
    return Picture(title, f"Below its mark, a target holds: {said}.", draw, legend)


def latency_over_time(samples: Sequence[Sample], seconds: float, targets: Targets) -> Picture:
    """p50, p95 and p99 of what was due in each piece of the run."""
    title = "Latency over time"
    good = [sample for sample in samples if sample.outcome == "ok"]
    size = piece_seconds(len(good), seconds)
    pieces: dict[int, list[float]] = {}
    for sample in good:
        pieces.setdefault(int(sample.intended / size), []).append(sample.latency)
    if not pieces:
        return nothing(title, "No request was answered, so there is no latency.")
    lines = {
        percent: [
            ((piece + 0.5) * size, percentile(sorted(values), percent))
            for piece, values in sorted(pieces.items())
        ]
        for percent in PERCENTS
    }
    highest = max(value for _, value in lines[99.0])
    said = f"the highest p99 is {milliseconds(highest)}"

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT, right=GOALS)
        x = frame.x_scale(0, max(seconds, size))
        values = [value for line in lines.values() for _, value in line]
        y = frame.y_scale([*values, *targets.values()], may_be_log=True)
        drawn = [
            path([(x.at(at), y.at(value)) for at, value in line], f"s{number_of}")
            for number_of, line in enumerate(lines.values(), start=1)
        ]
        return frame.whole(
            title,
            said,
            frame.y_axis(y, milliseconds),
            *drawn,
            *target_lines(frame, y, targets),
            frame.x_axis(_second_ticks(x, frame.x_ticks), "seconds of the run"),
        )

    legend = (("s1", "p50"), ("s2", "p95"), ("s3", "p99"), ("target", "targets"))
    caption = f"Of requests that were due in each {number(size)} s; {said}."
    return Picture(title, caption, draw, legend)


def throughput_over_time(
    samples: Sequence[Sample], seconds: float, target: float | None
) -> Picture:
    """Requests that were due, and answers, per second."""
    title = "Throughput over time"
    if not samples:
        return nothing(title, "No request was sent.")
    size = piece_seconds(len(samples), seconds)
    last = int(max(sample.ended for sample in samples) / size)
    due = Counter(int(sample.intended / size) for sample in samples)
    ok = Counter(int(sample.ended / size) for sample in samples if sample.outcome == "ok")
    bad = Counter(
        int(sample.ended / size) for sample in samples if sample.outcome in ("error", "refused")
    )
    ends = max(seconds, *(sample.ended for sample in samples))
    # The last piece may be so short that its rate is chance.
    shown = range(last + 1 if last < 1 or ends - last * size >= size / 2 else last)
    lengths = [min(size, ends - piece * size) or size for piece in shown]
    series = [("s1", "due", due), ("s2", "answered", ok)]
    if bad:
        series.append(("s3", "errors and refusals", bad))
    said = f"{sum(ok.values()):,} of {sum(due.values()):,} requests were answered"

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT, right=GOALS)
        x = frame.x_scale(0, max(seconds, size))
        rates = {
            class_: [counts[piece] / lengths[piece] for piece in shown]
            for class_, _, counts in series
        }
        goal = [] if target is None else [target]
        y = frame.y_scale([value for values in rates.values() for value in values] + goal)
        drawn = [
            path([(x.at((piece + 0.5) * size), y.at(v)) for piece, v in enumerate(values)], class_)
            for class_, values in rates.items()
        ]
        return frame.whole(
            title,
            said,
            frame.y_axis(y, lambda value: f"{number(value)}/s"),
            *drawn,
            *([_across(frame, y.at(target), "target")] if target else []),
            frame.x_axis(_second_ticks(x, frame.x_ticks), "seconds of the run"),
        )

    legend = [(class_, words) for class_, words, _ in series]
    if target:
        legend.append(("target", "target"))
    return Picture(title, f"Per second, in each {number(size)} s: {said}.", draw, legend)


def where_time_went(splits: Sequence[Split]) -> Picture:
    """Mean time of each part, by scenario."""
    title = "Where the time went"
    if not splits:
        return nothing(title, "No answer told by Server-Timing where its time went.")
    used = [part for part in range(len(PARTS)) if any(each.seconds[part] > 0 for each in splits)]
    said = "; ".join(
        f"{each.scenario}: {milliseconds(sum(each.seconds))} on average" for each in splits
    )

    def draw(width: float) -> str:
        row, top = 44.0, 6.0
        frame = Frame(width, top + row * len(splits) + 44, left=10)
        x = frame.x_scale(0, 1.02 * max(sum(each.seconds) for each in splits))
        parts = []
        for place, each in enumerate(splits):
            y, at = top + place * row, 0.0
            total = f"{each.scenario}: {milliseconds(sum(each.seconds))}"
            parts.append(label(total, frame.left, y + 12))
            for part in used:
                seconds = each.seconds[part]
                begin, end = x.at(at), x.at(at + seconds)
                at += seconds
                if end - begin >= 0.3:
                    words = f"{PARTS[part]}: {milliseconds(seconds)}"
                    shape: dict[str, Any] = {"x": begin, "width": end - begin, "y": y + 17}
                    mark = f"part{part} mark"
                    parts.append(tag("rect", tag("title", words), **shape, height=20, class_=mark))
        axis = frame.x_axis(_time_ticks(x, frame.x_ticks), "mean time of an answer")
        return frame.whole(title, said, *parts, axis)

    legend = [(f"part{part}", PARTS[part]) for part in used]
    return Picture(title, f"Of answers that went well. {said}.", draw, legend)


def errors_by_kind(samples: Sequence[Sample]) -> Picture:
    """What went wrong, and what was refused."""
    title = "Errors by kind"
    kinds = Counter(
        (sample.error or "unknown", sample.outcome)
        for sample in samples
        if sample.outcome in ("error", "refused")
    ).most_common(12)
    if not kinds:
        return nothing(title, f"None: no error and no refusal in {len(samples):,} requests.")
    said = "; ".join(f"{kind} ({outcome}): {count}" for (kind, outcome), count in kinds)

    def draw(width: float) -> str:
        row, top = 40.0, 4.0
        frame = Frame(width, top + row * len(kinds) + 8, left=10, right=60)
        x = frame.x_scale(0, kinds[0][1])
        parts = []
        for place, ((kind, outcome), count) in enumerate(kinds):
            y = top + place * row
            most = int((frame.x_end - frame.left) / CHARACTER)
            words = f"{kind} ({outcome})"
            shown = words if len(words) <= most else f"{words[: most - 3]}..."
            parts.append(label(shown, frame.left, y + 12))
            shape: dict[str, Any] = {"x": frame.left, "y": y + 17, "height": 14}
            wide = max(1.0, x.at(count) - frame.left)
            mark = "bar mark" if outcome == "refused" else "bad mark"
            parts.append(tag("rect", tag("title", f"{count}"), **shape, width=wide, class_=mark))
            parts.append(label(f"{count:,}", frame.left + wide + 6, y + 28))
        return frame.whole(title, said, *parts)

    legend = (("bad", "errors"), ("bar", "refused with a Retry-After"))
    return Picture(title, f"Of {len(samples):,} requests.", draw, legend)


def piece_seconds(count: int, seconds: float) -> float:
    """How long a piece of a timeline is: whole seconds, with enough answers in each."""
    by_count = LEAST_IN_POINT * seconds / max(1, count)
    return float(max(1, math.ceil(max(seconds / POINTS, min(by_count, seconds / 8)))))


def _time_ticks(x: Scale, most: int) -> list[tuple[float, str]]:
    return [(x.at(value), milliseconds(value) if value else "0") for value in x.ticks(most)]


def _second_ticks(x: Scale, most: int) -> list[tuple[float, str]]:
    return [(x.at(value), f"{value:g}") for value in x.ticks(most)]


def _across(frame: Frame, y: float, words: str, place: float | None = None) -> str:
    shown = y + 4 if place is None else place
    line = tag("line", x1=frame.left, x2=frame.x_end, y1=y, y2=y, class_="target")
    return line + label(words, frame.x_end + 4, shown, "start", "label goal")


def target_lines(frame: Frame, y: Scale, targets: Targets) -> list[str]:
    """Each with its name beside it, as far as they do not touch."""
    named = sorted(targets.items())
    wanted = [y.at(seconds) + 4 for _, seconds in named]
    places = apart(wanted, 13, frame.top + 4, frame.y_start)
    return [
        _across(frame, y.at(seconds), f"p{percent:g}", place)
        for (percent, seconds), place in zip(named, places, strict=True)
    ]
