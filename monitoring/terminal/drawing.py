"""What the monitor shows, as sections of lines. Pure: from a view to text."""

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.terminal.layout import Line, Piece, Section, Tone, fitted, line, painted
from monitoring.terminal.trends import BARS, PLAIN_BARS, Trends, bars
from monitoring.terminal.verdict import Verdict
from monitoring.terminal.watch import View
from monitoring.terminal.wording import (
    NOTHING,
    age,
    counts,
    milliseconds,
    number,
    percent,
    plain,
    rate,
)

LABEL = 14
VALUE = 11
WORD = 6
NOTE = 27
LEAST_BARS = 8
BLANK = Section(0, "")
_STATES: dict[str, Tone] = {"ok": "good", "degraded": "warn", "down": "bad"}


@dataclass(frozen=True)
class Style:
    """What the terminal can do."""

    colours: bool = False
    unicode: bool = False


def draw(
    view: View, trends: Trends | None, at: float, columns: int, rows: int | None, style: Style
) -> list[str]:
    """Lines no wider than `columns`, no more than `rows` (None: all); `at` is now.

    Without `trends` nothing is said about what was.
    """
    sections = [Section(9, "", _head(view, at))]
    if view.now is not None and view.lately is not None:
        bar_width = max(0, columns - LABEL - VALUE - NOTE - 3)
        glyphs = BARS if style.unicode else PLAIN_BARS
        over = _Over(trends, at, bar_width if bar_width >= LEAST_BARS else 0, glyphs)
        sections += [
            BLANK,
            *_latency(view),
            BLANK,
            *_over_time(view, over),
            BLANK,
            *_counts(view),
        ]
    return [
        painted(each, columns, colours=style.colours) for each in fitted(sections, rows, columns)
    ]


@dataclass(frozen=True)
class _Over:
    """Draws the bars of one figure."""

    trends: Trends | None
    at: float
    width: int
    glyphs: str

    def bars(self, name: str) -> Piece:
        if self.trends is None or not self.width:
            return Piece("")
        found = self.trends.columns(name, self.at, self.width)
        return Piece(f" {bars(found, self.glyphs)} ")

    def title(self) -> str:
        if self.trends is None or not self.width:
            return ""
        return f" {f'the last {age(self.trends.seconds)}':<{self.width}} "


def _head(view: View, at: float) -> list[Line]:
    health = view.health
    title: list[str | Piece] = [Piece("llm-serving-stack", "strong"), f" at {plain(view.url)}"]
    if health is not None:
        tone = _STATES.get(health.status, "warn")
        title += ["   ", Piece(plain(health.status), tone)]
        title.append(f"   version {plain(health.version)}, up {age(health.uptime_seconds)}")
    return [line(*title), _state(view, at)]


def _state(view: View, at: float) -> Line:
    trouble = view.trouble
    if trouble is not None:
        what = "NO GATEWAY" if trouble.is_reachable else "NOT REACHABLE"
        old = "" if view.taken is None else f"figures are {age(at - view.taken)} old; "
        text = f"{what}: {plain(trouble.text)}; {old}tried for {age(at - trouble.since)}"
        return line(Piece(text, "bad"))
    of = "all models" if view.model is None else f"model {plain(view.model)}"
    if view.lately is None:
        return line(f"{of}: the first figures come with the second look")
    if not view.requests_ever:
        said = "no requests yet"
    elif not view.lately.requests:
        said = f"no requests in the last {age(view.lately.seconds)}"
    else:
        said = f"{number(view.lately.requests)} requests in the last {age(view.lately.seconds)}"
    return line(f"{of}: {said}")


def _latency(view: View) -> list[Section]:
    lately, promised = view.lately, view.promised
    assert lately is not None
    names = sorted({"p50", "p95", "p99", *promised.latency_ms})
    found = {each.name: each for each in view.verdicts}

    def row(label: str, cells: Sequence[Piece], note: str = "") -> Line:
        return line(f"{label:<{LABEL}}", *cells, f"  {note}")

    def cell(text: str, tone: Tone = "", word: str = "") -> Piece:
        return Piece(f"{text:>{VALUE - 1}} {word:<{WORD}}", tone)

    def measured(name: str) -> Piece:
        verdict = found.get(name)
        word = "" if verdict is None else _word(verdict)
        return cell(milliseconds(whole.seconds[name]), _tone(verdict), word)

    def target(name: str) -> Piece:
        verdict = found.get(name)
        return cell(NOTHING if verdict is None else f"< {milliseconds(verdict.target)}")

    whole, first = lately.latency, lately.first_token
    rows = [
        row("latency", [cell(name, "strong") for name in names]),
        row("end to end", [measured(name) for name in names], f"{number(whole.count)} answers"),
        row("  target", [target(name) for name in names]),
    ]
    cells = [cell(milliseconds(first.seconds[name])) for name in names]
    streams = row("first token", cells, f"{number(first.count)} streams")
    return [Section(8, "latency", rows), Section(6, "first token", [streams])]


def _word(verdict: Verdict) -> str:
    return {True: "ok", False: "MISSED", None: ""}[verdict.is_met]


def _tone(verdict: Verdict | None) -> Tone:
    if verdict is None or verdict.is_met is None:
        return ""
    return "good" if verdict.is_met else "bad"


def _over_time(view: View, over: _Over) -> list[Section]:
    lately, now = view.lately, view.now
    assert lately is not None
    assert now is not None
    error = view.verdicts[-1]
    limit = Piece(f"< {percent(error.target)} {_word(error)}", _tone(error))
    promised = f"{view.promised.requests_per_second:,g} a second promised"
    waited = f"p95 {milliseconds(lately.queue_wait.seconds['p95'])}"
    if now.oldest_queued_seconds:
        waited += f", oldest {age(now.oldest_queued_seconds)}"
    busy = now.in_flight if now.slots_busy is None else now.slots_busy
    slots = f"of {number(now.slots)}" if now.slots is not None else ""

    def row(
        importance: int, label: str, key: str, value: str, note: str | Piece = "", tone: Tone = ""
    ) -> Section:
        shown = Piece(f"{value:>{VALUE}}", tone)
        parts = line(f"{label:<{LABEL}}", shown, over.bars(key), " ", note)
        return Section(importance, label, [parts])

    title = line(Piece(f"{'':<{LABEL}}{'now':>{VALUE}}{over.title()}", "strong"))
    tone = _tone(error)
    return [
        Section(1, "", [title]),
        row(7, "requests/s", "requests", rate(lately.requests_per_second), promised),
        row(4, "p95", "p95", milliseconds(lately.latency.seconds["p95"])),
        row(7, "error rate", "breaches", percent(error.value), limit, tone),
        row(5, "tokens out/s", "output_tokens", rate(lately.output_tokens_per_second)),
        row(3, "tokens in/s", "input_tokens", rate(lately.input_tokens_per_second)),
        row(6, "queued", "queued", number(now.queued), waited),
        row(6, "slots in use", "busy", number(busy), slots),
    ]


def _counts(view: View) -> list[Section]:
    lately, now, health = view.lately, view.now, view.health
    assert lately is not None
    assert now is not None

    def row(importance: int, label: str, text: str, tone: Tone = "") -> Section:
        return Section(importance, label, [line(f"{label:<{LABEL}}", Piece(plain(text), tone))])

    shed, limited = counts(lately.shed_by_reason), counts(lately.limited_by_limit)
    jobs = "off"
    if now.jobs_waiting is not None:
        jobs = f"{number(now.jobs_waiting)} waiting, {number(now.jobs_running)} running"
        if now.oldest_job_seconds:
            jobs += f", the oldest for {age(now.oldest_job_seconds)}"
    if lately.background:
        jobs += f"; {number(lately.background)} requests in the background"
    spool = "off" if now.spool_rows is None else f"{number(now.spool_rows)} rows"
    if lately.ledger_rows_lost:
        spool += f", {number(lately.ledger_rows_lost)} LOST"
    unwell = [f"{name} is down" for name in now.dependencies_down]
    unwell += [f"model {name} has no engine" for name in (health.unready if health else ())]
    unwell += [f"replica of {name} fails" for name in now.replicas_unwell]
    if lately.restarts:
        times = "once" if lately.restarts == 1 else f"{lately.restarts} times"
        unwell.append(f"started anew {times}")
    unwell += [f"{each} does not answer" for each in view.silent]
    some: Tone = "warn" if lately.errors_by_kind else ""
    return [
        row(8, "not well", ", ".join(unwell) or "nothing", "bad" if unwell else "good"),
        row(7, "errors", counts(lately.errors_by_kind), some),
        row(5, "shed", f"{shed}; by limits of apps: {limited}"),
        row(4, "cancelled", counts(lately.cancelled_by_phase)),
        row(5, "jobs", jobs),
        row(3, "spool", spool, "bad" if lately.ledger_rows_lost else ""),
        row(1, "processes", f"{number(now.workers)} serving"),
    ]
