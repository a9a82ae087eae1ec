"""Looks again and again, and keeps what the screen and the scripts show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from monitoring.slo import Workload
from monitoring.terminal.figures import Lately, Now, lately_of, models_in, now_of, requests_ever
from monitoring.terminal.gateway import NoGatewayError, Seen, UnreachableError
from monitoring.terminal.health import Health, of_all
from monitoring.terminal.rates import START_TIME, Growth, Window, is_another, of_several, together
from monitoring.terminal.trends import Point, Trends
from monitoring.terminal.verdict import Verdict, verdicts

TREND_SECONDS = 300.0
IN_TURN = (
    "several gateways answer there in turn, so that there are no figures of all of them; "
    "name each: --url http://a:8000,http://b:8000"
)


@dataclass(frozen=True)
class Trouble:
    """Why there is nothing new since the moment `since`."""

    text: str
    since: float
    is_reachable: bool


@dataclass(frozen=True)
class View:
    """All there is to show. None where nothing is known yet; `lately` takes two looks.

    `taken` is when the figures are from, on the monotonic clock. With a `trouble` they are old.
    `silent` are gateways whose figures are not in them, as they do not answer.
    """

    url: str
    model: str | None
    promised: Workload
    taken: float | None = None
    health: Health | None = None
    now: Now | None = None
    lately: Lately | None = None
    requests_ever: int = 0
    verdicts: tuple[Verdict, ...] = ()
    trouble: Trouble | None = None
    silent: tuple[str, ...] = ()


def each_once(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    """Without gateways that answer at a second address too: they are not two. Pure."""
    found: dict[object, Seen] = {}
    for each in seen:
        found.setdefault(each.exposition.series.get(START_TIME, {}).get((), each.url), each)
    return tuple(found.values())


class Watch:
    """Turns looks into views. The clock of `taken` and `at` is the same monotonic one."""

    def __init__(
        self, url: str, promised: Workload, window_seconds: float, model: str | None
    ) -> None:
        self._window_seconds = window_seconds
        self._windows: dict[str, Window] = {}
        self._last: dict[str, Seen] = {}
        self._in_turn: str | None = None
        self._model = model
        self.trends = Trends(TREND_SECONDS)
        self.view = View(url, model, promised)

    def saw(self, *seen: Seen, silent: Sequence[str] = ()) -> None:
        """Figures came, of one gateway or of several, whose figures are added up."""
        taken = max(each.taken for each in seen)
        seen = each_once(seen)
        parts = [each.exposition.series for each in seen]
        known = {name for series in parts for name in models_in(series)}
        known |= {name for each in seen if each.health for name in each.health.models}
        if self._model is not None and self._model not in known:
            names = ", ".join(sorted(known)) or "none"
            error = NoGatewayError(f"it has no model {self._model!r}; known: {names}")
            self.failed(error, taken)
            return
        for each in seen:
            self._keep(each)
        if self._in_turn is not None:
            self.failed(NoGatewayError(f"{self._in_turn}: {IN_TURN}"), taken)
            return
        windows = [self._windows[each.url] for each in seen]
        grown = of_several([window.growth() for window in windows])
        step = of_several([window.last_step() for window in windows])
        series = together(parts)
        now = now_of(series, self._model)
        lately = lately_of(grown, self._model) if grown is not None else None
        found = tuple(verdicts(lately, self.view.promised)) if lately is not None else ()
        if lately is not None and step is not None:
            self._add_point(step, now, lately)
        self.view = replace(
            self.view,
            taken=taken,
            health=of_all([each.health for each in seen]),
            now=now,
            lately=lately,
            requests_ever=requests_ever(series, self._model),
            verdicts=found,
            trouble=None,
            silent=tuple(silent),
        )

    def _keep(self, seen: Seen) -> None:
        last = self._last.get(seen.url)
        if last is not None and is_another(last.exposition, seen.exposition, last.at):
            self._in_turn = seen.url
        self._last[seen.url] = seen
        window = self._windows.setdefault(seen.url, Window(self._window_seconds))
        window.add(seen.taken, seen.exposition)

    def failed(self, error: UnreachableError | NoGatewayError, at: float) -> None:
        """Nothing came; what was known before stays, and is old."""
        view = self.view
        since = at if view.trouble is None else view.trouble.since
        trouble = Trouble(str(error), since, isinstance(error, NoGatewayError))
        self.view = replace(view, trouble=trouble, silent=())

    def _add_point(self, step: Growth, now: Now, lately: Lately) -> None:
        last = lately_of(step, self._model)
        values: dict[str, float | None] = {
            "requests": last.requests_per_second,
            "output_tokens": last.output_tokens_per_second,
            "input_tokens": last.input_tokens_per_second,
            "breaches": last.breaches / last.seconds,
            "p95": lately.latency.seconds["p95"],
            "queued": float(now.queued),
            "busy": float(now.in_flight if now.slots_busy is None else now.slots_busy),
        }
        is_back = self.view.trouble is not None  # of the time away nothing is known
        self.trends.add(Point(step.ended if is_back else step.began, step.ended, values))
