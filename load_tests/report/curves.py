"""The pictures of a search for the knee: what more load does to latency and to throughput. Pure."""

from collections.abc import Sequence

from load_tests.capacity import Capacity, Step
from load_tests.report.pictures import GOALS, HEIGHT, Picture, Targets, nothing, target_lines
from load_tests.report.svg import CHARACTER, Frame, Scale, label, path, tag
from load_tests.report.words import milliseconds, number

NO_SEARCH = "No search for the knee was made with this run: see --find-capacity."


def latency_against_throughput(capacity: Capacity | None, targets: Targets) -> Picture:
    """Each step is a point: answers per second, and how long they took."""
    title = "Throughput against latency"
    if capacity is None:
        return nothing(title, NO_SEARCH)
    steps = [step for step in together(capacity.steps) if step.p50 is not None]
    if not steps:
        return nothing(title, "No request was answered in the search for the knee.")
    said = _knee_words(capacity)

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT, top=26, right=GOALS)
        x = frame.x_scale(0, 1.06 * max(step.throughput for step in steps))
        lines = [
            [(step.throughput, value) for step in steps if (value := getattr(step, name))]
            for name in ("p50", "p95", "p99")
        ]
        values = [value for line in lines for _, value in line]
        y = frame.y_scale([*values, *targets.values()], may_be_log=True)
        drawn = []
        for number_of, line in enumerate(lines, start=1):
            points = [(x.at(at), y.at(value)) for at, value in line]
            drawn.append(path(points, f"s{number_of}"))
            drawn += [tag("circle", cx=a, cy=b, r=3, class_=f"s{number_of} dot") for a, b in points]
        knee = next((step.throughput for step in steps if step.rate == capacity.rate), None)
        return frame.whole(
            title,
            said,
            frame.y_axis(y, milliseconds),
            *drawn,
            _knee(frame, x, knee, "knee"),
            *target_lines(frame, y, targets),
            frame.x_axis(
                [(x.at(v), number(v)) for v in x.ticks(frame.x_ticks)], "answers per second"
            ),
        )

    legend = [("s1", "p50"), ("s2", "p95"), ("s3", "p99"), ("target", "targets"), ("knee", "knee")]
    return Picture(title, f"Each point is a run at another rate. {said}", draw, legend)


def throughput_and_goodput(capacity: Capacity | None) -> Picture:
    """What was asked, what was answered, and what was answered in time."""
    title = "Throughput and goodput"
    if capacity is None:
        return nothing(title, NO_SEARCH)
    steps = together(capacity.steps)
    if not steps:
        return nothing(title, "The search for the knee had no time for a run.")
    said = _knee_words(capacity)

    def draw(width: float) -> str:
        frame = Frame(width, HEIGHT, top=26)
        x = frame.x_scale(0, 1.06 * max(step.rate for step in steps))
        y = frame.y_scale([step.throughput for step in steps])
        drawn = [path([(x.at(0), y.at(0)), (x.at(y.high), y.at(min(y.high, x.high)))], "asked")]
        for class_, values in (
            ("s1", [step.throughput for step in steps]),
            ("s2", [step.goodput for step in steps]),
        ):
            points = [(x.at(s.rate), y.at(v)) for s, v in zip(steps, values, strict=True)]
            drawn.append(path(points, class_))
            drawn += [tag("circle", cx=a, cy=b, r=3, class_=f"{class_} dot") for a, b in points]
        return frame.whole(
            title,
            said,
            frame.y_axis(y, lambda value: f"{number(value)}/s"),
            *drawn,
            _knee(frame, x, capacity.rate, "knee"),
            frame.x_axis(
                [(x.at(v), number(v)) for v in x.ticks(frame.x_ticks)],
                "requests per second that were sent",
            ),
        )

    in_time = f"answered: {capacity.targets[-1].name.partition(' ')[2]}"
    legend = [("s1", "answered"), ("s2", in_time), ("asked", "as many as sent"), ("knee", "knee")]
    return Picture(title, f"Each point is a run at another rate. {said}", draw, legend)


def together(steps: Sequence[Step]) -> list[Step]:
    """One for each rate, in their order: the longest, and of those the last."""
    best: dict[float, Step] = {}
    for step in steps:
        if step.rate not in best or step.seconds >= best[step.rate].seconds:
            best[step.rate] = step
    return [best[rate] for rate in sorted(best)]


def _knee_words(capacity: Capacity) -> str:
    if capacity.rate is None:
        return "No rate met the targets."
    return f"The knee is at {number(capacity.rate)} requests per second."


def _knee(frame: Frame, x: Scale, at: float | None, words: str) -> str:
    if at is None:
        return ""
    half = CHARACTER * len(words) / 2
    middle = min(max(x.at(at), frame.left + half), frame.x_end - half)
    line = tag("line", x1=x.at(at), x2=x.at(at), y1=22, y2=frame.y_start, class_="knee")
    return line + label(words, middle, 16, "middle", "label title")
