"""Looks again and again, and keeps what the screen and the scripts show."""

from dataclasses import dataclass, replace

from monitoring.slo import Workload
from monitoring.terminal.figures import Lately, Now, lately_of, models_in, now_of, requests_ever
from monitoring.terminal.gateway import NoGatewayError, Seen, UnreachableError
from monitoring.terminal.health import Health
from monitoring.terminal.rates import Growth, Window
from monitoring.terminal.trends import Point, Trends
from monitoring.terminal.verdict import Verdict, verdicts

TREND_SECONDS = 300.0


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


class Watch:
    """Turns looks into views. The clock of `taken` and `at` is the same monotonic one."""

    def __init__(
        self, url: str, promised: Workload, window_seconds: float, model: str | None
    ) -> None:
        self._window = Window(window_seconds)
        self._model = model
        self.trends = Trends(TREND_SECONDS)
        self.view = View(url, model, promised)

    def saw(self, seen: Seen) -> None:
        """Figures came."""
        series = seen.exposition.series
        known = models_in(series) | set(seen.health.models if seen.health is not None else ())
        if self._model is not None and self._model not in known:
            names = ", ".join(sorted(known)) or "none"
            error = NoGatewayError(f"it has no model {self._model!r}; known: {names}")
            self.failed(error, seen.taken)
            return
        self._window.add(seen.taken, seen.exposition)
        grown, step = self._window.growth(), self._window.last_step()
        now = now_of(series, self._model)
        lately = lately_of(grown, self._model) if grown is not None else None
        found = tuple(verdicts(lately, self.view.promised)) if lately is not None else ()
        if lately is not None and step is not None:
            self._add_point(step, now, lately)
        self.view = replace(
            self.view,
            taken=seen.taken,
            health=seen.health,
            now=now,
            lately=lately,
            requests_ever=requests_ever(series, self._model),
            verdicts=found,
            trouble=None,
        )

    def failed(self, error: UnreachableError | NoGatewayError, at: float) -> None:
        """Nothing came; what was known before stays, and is old."""
        view = self.view
        since = at if view.trouble is None else view.trouble.since
        trouble = Trouble(str(error), since, isinstance(error, NoGatewayError))
        self.view = replace(view, trouble=trouble)

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
