"""The page: one file of HTML with everything in it; nothing is fetched and nothing runs. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from msgspec import Struct, structs

from load_tests.capacity import Capacity
from load_tests.gate import Verdict
from load_tests.report import words
from load_tests.report.curves import latency_against_throughput, throughput_and_goodput
from load_tests.report.pictures import (
    NARROW,
    WIDE,
    Picture,
    Targets,
    by_percentile,
    distribution,
    errors_by_kind,
    latency_over_time,
    throughput_over_time,
    where_time_went,
)
from load_tests.report.svg import tag
from load_tests.report.where import PARTS, Split, splits
from load_tests.results import Hardware, Result, Row
from load_tests.samples import Sample
from monitoring.slo import Workload

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
FILLED = frozenset({"bar", "bad", *(f"part{number}" for number in range(len(PARTS)))})


class Page(Struct, frozen=True, kw_only=True):
    """What a page tells of. Either of `result` and `capacity` is there, or both."""

    result: Result | None
    samples: Sequence[Sample]
    verdicts: Sequence[Verdict]
    capacity: Capacity | None
    workload: Workload


def render(page: Page) -> str:
    """The document."""
    result, capacity = page.result, page.capacity
    when = result.started_at if result else capacity.started_at if capacity else ""
    parts = [tag("h1", "Load test"), _line(f"{when[:19].replace('T', ' ')} UTC", "soft")]
    if result and result.invalid_because:
        parts.append(tag("p", "NOT VALID: the load tester was in the way", class_="stamp poor"))
    parts += [_verdict(verdict) for verdict in page.verdicts]
    if capacity:
        parts.append(_knee(capacity))
    parts.append(_heading("Pictures"))
    drawn = [_figure(number, picture) for number, picture in enumerate(pictures(page))]
    parts.append(tag("div", *drawn, class_="pictures"))
    if page.verdicts:
        parts += [_heading("Targets"), *(_checks(verdict) for verdict in page.verdicts)]
    if result:
        parts += [_heading("Scenarios"), _rows(result)]
        if found := splits(page.samples):
            parts += [_heading("Where the time went, mean of an answer"), _where(found)]
    if capacity:
        parts += [_heading("Search for the knee"), _steps(capacity)]
    parts += [_heading("What was run, and where"), _facts(page)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Load test {escape(when[:16])}</title><style>{STYLE}</style>"
    )
    body = tag("main", *parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def pictures(page: Page) -> list[Picture]:
    """All of them, with data or without."""
    targets = _targets(page.workload)
    result, samples = page.result, page.samples
    curves = [
        latency_against_throughput(page.capacity, targets),
        throughput_and_goodput(page.capacity),
    ]
    if result is None:
        return curves
    asked = result.configuration.rate
    wanted = page.workload.requests_per_second
    target = wanted if asked is None or asked >= wanted else None
    return [
        distribution(samples, targets),
        by_percentile(samples, targets),
        latency_over_time(samples, result.seconds, targets),
        throughput_over_time(samples, result.seconds, target),
        where_time_went(splits(samples)),
        errors_by_kind(samples),
        *curves,
    ]


def _targets(workload: Workload) -> Targets:
    return {float(name[1:]): target / 1000 for name, target in workload.latency_ms.items()}


def _line(text: str, class_: str = "") -> str:
    return tag("p", escape(text), class_=class_) if class_ else tag("p", escape(text))


def _heading(text: str) -> str:
    return tag("h2", escape(text))


def _list(items: Iterable[str]) -> str:
    return tag("ul", *(tag("li", escape(item)) for item in items))


def _verdict(verdict: Verdict) -> str:
    class_ = "good" if verdict.holds else "poor" if verdict.state == "fails" else "odd"
    sign = {"good": "Yes. ", "poor": "No. ", "odd": "Unknown. "}[class_]
    if verdict.invalid_because:
        class_, sign = "poor", "Not valid. "
    said = tag("strong", escape(sign + words.headline(verdict)))
    return tag("section", said, _list(words.reasons(verdict)), class_=f"verdict {class_}")


def _knee(capacity: Capacity) -> str:
    class_ = "odd" if capacity.rate is None or capacity.ended in ("time", "interrupted") else "good"
    return tag("section", _line(words.knee(capacity)), class_=f"verdict {class_}")


def _figure(number: int, picture: Picture) -> str:
    name = f"picture-{number}"
    title = tag("h3", escape(picture.title), id=name)
    if picture.draw is None:
        return tag(
            "figure", title, tag("p", escape(picture.caption), class_="none"), aria_labelledby=name
        )
    return tag(
        "figure",
        title,
        tag("figcaption", escape(picture.caption)),
        tag("ul", *(_legend(class_, said) for class_, said in picture.legend), class_="legend"),
        tag("div", picture.draw(WIDE), class_="wide"),
        tag("div", picture.draw(NARROW), class_="narrow"),
        aria_labelledby=name,
    )


def _legend(class_: str, said: str) -> str:
    if class_ in FILLED:
        mark = tag("rect", x=3, y=0, width=20, height=12, class_=class_)
    else:
        mark = tag("path", d="M1 6 L25 6", class_=f"{class_} line")
    swatch = tag("svg", mark, viewBox="0 0 26 12", aria_hidden="true")
    return tag("li", swatch, tag("span", escape(said)))


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = (
        tag("tr", tag("th", escape(row[0]), scope="row"), *(tag("td", escape(c)) for c in row[1:]))
        for row in rows
    )
    top = tag("tr", *(tag("th", escape(name), scope="col") for name in head))
    whole = tag("table", tag("thead", top), tag("tbody", *cells), aria_label=title)
    # One that is wider than the window is scrolled, by keys too.
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=title)


def _checks(verdict: Verdict) -> str:
    head = ("target", "promised", "measured", "the truth, 90 % sure", "requests", "holds", "")
    rows = [
        (
            check.name,
            words.of_check(check, check.target),
            words.of_check(check, check.measured),
            words.check_range(check),
            f"{check.count:,}",
            {"holds": "yes", "fails": "no"}.get(check.state, check.state),
            check.note,
        )
        for check in verdict.checks
    ]
    left = f"{verdict.limited:,} refused by a limit of the app, {verdict.cancelled:,} left by us"
    said = f"{verdict.workload}: {verdict.counted:,} requests count; {left} do not."
    return _line(said, "soft") + _table(f"Targets of {verdict.workload}", head, rows)


def _rows(result: Result) -> str:
    head = ["scenario", "requests", "ok", "errors", "refused", "left", "p50", "p95", "p99"]
    head += ["first token p95", "gap p95", "answers", "tokens", "cached prompt"]
    every = [*result.scenarios, *([result.total] if len(result.scenarios) > 1 else ())]
    return _table("Scenarios", head, [_row(row) for row in every])


def _row(row: Row) -> tuple[str, ...]:
    cached = row.cached_tokens / row.prompt_tokens if row.prompt_tokens else None
    counts = (row.count, row.ok, sum(row.errors.values()), row.refused, row.cancelled)
    latency = row.latency
    return (
        row.scenario,
        *(f"{count:,}" for count in counts),
        *(
            words.milliseconds(None if latency is None else latency.percentiles[name])
            for name in ("p50", "p95", "p99")
        ),
        words.milliseconds(row.first_token.p95 if row.first_token else None),
        words.milliseconds(row.gap.p95 if row.gap else None),
        words.rate(row.requests_per_second),
        words.rate(row.tokens_per_second),
        words.share(cached),
    )


def _where(found: Sequence[Split]) -> str:
    rows = [
        (each.scenario, *(words.milliseconds(value) for value in each.seconds)) for each in found
    ]
    return _table("Where the time went", ("scenario", *PARTS), rows)


def _steps(capacity: Capacity) -> str:
    head = ("asked", "for", "why", "requests", *(target.name for target in capacity.targets))
    head = (*head, "p50", "p95", "p99", "answered", "in time", "errors", "refused", "")
    rows = [
        (
            words.rate(step.rate),
            f"{step.seconds:.0f} s",
            step.phase,
            f"{step.count:,}",
            *(words.share(share) for share in step.meets),
            *(words.milliseconds(value) for value in (step.p50, step.p95, step.p99)),
            words.rate(step.throughput),
            words.rate(step.goodput),
            str(step.errors),
            str(step.refused),
            "; ".join(step.invalid_because),
        )
        for step in capacity.steps
    ]
    return _table("Steps of the search", head, rows)


def _facts(page: Page) -> str:
    result, capacity = page.result, page.capacity
    tables = []
    if result:
        told = structs.asdict(result.configuration)
        told["scenarios"] = ", ".join(
            f"{k} {v:g}" for k, v in result.configuration.scenarios.items()
        )
        tables.append(_facts_table("Configuration", {k: _said(v) for k, v in told.items()}))
        late = words.milliseconds(result.lag.p99 if result.lag else None)
        tester = {"sent late, p99": late, "seconds": f"{result.seconds:.1f}"}
        for number, process in enumerate(result.processes):
            busy = words.share(process.cpu_share)
            tester[f"process {number}"] = f"{process.sent:,} requests, {busy} of a core"
        tester |= {f"left out: {name}": why for name, why in result.left_out.items()}
        tables.append(_facts_table("Load tester", tester))
    elif capacity:
        told = {k: _said(v) for k, v in structs.asdict(capacity.plan).items()}
        tables.append(_facts_table("Search", {"host": capacity.host, **told}))
    versions = result.versions if result else capacity.versions if capacity else {}
    hardware = result.hardware if result else capacity.hardware if capacity else None
    tables.append(_facts_table("Versions", versions))
    tables.append(_facts_table("Hardware the load came from", _hardware(hardware)))
    return tag("div", *tables, class_="sides")


def _hardware(hardware: Hardware | None) -> dict[str, str]:
    if hardware is None:
        return {"hardware": "unknown"}
    return {
        "processor": f"{hardware.cpu}, {hardware.cores} cores",
        "memory": words.size(hardware.memory_bytes),
        "GPU": hardware.gpu or "none",
        "system": hardware.system,
    }


def _said(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _facts_table(title: str, facts: Mapping[str, str]) -> str:
    rows = (
        tag("tr", tag("th", escape(name.replace("_", " ")), scope="row"), tag("td", escape(value)))
        for name, value in facts.items()
    )
    whole = tag("table", tag("tbody", *rows), class_="facts", aria_label=title)
    return tag("div", tag("h3", escape(title)), tag("div", whole, class_="scroll"))
