"""One engine among several that serve a model: what it works on, and how well it does."""

from typing import Literal
from urllib.parse import urlsplit

from api_server.errors import ApiError, EngineBusyError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.replicas.breaker import Breaker, fault_of
from api_server.inference.replicas.choosing import hash_of
from api_server.inference.replicas.inspection import Inspection
from api_server.inference.replicas.retrying import pause_seconds

State = Literal["up", "down", "refused", "aside", "open", "half-open", "warming"]

PROBES_TO_GO_DOWN = 2
"""So many health probes must fail in a row: a busy engine may miss one."""


class Replica:
    """One replica. Times are the event loop's, in seconds; `in_flight` is in answers.

    `refusals` is how often in a row it said that it is busy or loading.
    """

    def __init__(self, model: Model, url: str) -> None:
        self.url = url
        self.name = urlsplit(url).netloc
        self.client = EngineClient(model, url)
        self.breaker = Breaker(model.balancing)
        self.inspection = Inspection(model, self.name)
        self.seed = hash_of(url.encode())
        self.in_flight = 0
        self.is_up = True
        self._model = model
        self._failed_probes = 0
        self.refusals = 0
        self._aside_until = 0.0
        self._warm_since: float | None = None

    @property
    def is_sound(self) -> bool:
        """Whether nothing speaks against it: what a replica counts for in the model's capacity."""
        return self.is_up and self.breaker.is_closed and self.inspection.problem is None

    def is_within_reach(self, now: float) -> bool:
        """Whether it is left out, but only for how it answered: it could be reached."""
        return not (
            self.breaker.is_closed
            or self.breaker.fault == "unreachable"
            or now < self._aside_until
            or self.inspection.bars(now)
        )

    def room(self, now: float) -> float:
        """How many answers it can give at the same time now; 0 when it must not be asked."""
        if now < self._aside_until or not self.breaker.permits(now) or self.inspection.bars(now):
            return 0.0
        if not self.breaker.is_closed:
            return 1.0
        if self._warm_since is None:
            return self._model.slots
        warmth = (now - self._warm_since) / self._model.balancing.slow_start_seconds
        if warmth >= 1:
            self._warm_since = None
            return self._model.slots
        return max(1.0, warmth * self._model.slots)

    def usable_at(self) -> float:
        """When it may be asked again at the earliest."""
        again_at = self.inspection.again_at if self.inspection.problem is not None else 0.0
        return max(self._aside_until, self.breaker.open_until or 0.0, again_at)

    def state(self, now: float) -> State:
        """In a word, for people."""
        if self.inspection.problem is not None:
            return "refused"
        breaker = self.breaker.state(now)
        if breaker != "closed":
            return breaker
        if not self.is_up:
            return "down"
        if now < self._aside_until:
            return "aside"
        return "up" if self._warm_since is None else "warming"

    def begin(self, weight: int) -> int:
        """A request goes there; returns what `ended` wants to know as `trial`."""
        self.in_flight += weight
        return self.breaker.begin()

    def reached(self) -> None:
        """A request was handed over: whatever becomes of it, something listens there again."""
        if self.breaker.fault == "unreachable":
            self.breaker.fault = "dropped"

    def answered(self, now: float) -> None:
        """It has begun an answer, so that it is in order."""
        self.refusals = 0
        if not self.breaker.is_closed:
            self.breaker.close()
            self._warm_since = now

    def ended(
        self, weight: int, now: float, trial: int, *, is_whole: bool, error: Exception | None
    ) -> None:
        """A request is over: with a whole answer, with an error, or with neither."""
        self.in_flight -= weight
        fault = fault_of(error) if isinstance(error, ApiError) else None
        if fault is not None:
            self.breaker.failed(fault, now, trial)
            self.inspection.forget()
        else:
            self.breaker.abandoned(trial)
            if is_whole:
                self.breaker.completed()
        if isinstance(error, EngineBusyError):
            self._step_aside(error, now)

    def probed(self, now: float, *, is_well: bool) -> None:
        """What its health route said. One that comes back is taken in slowly."""
        if not is_well:
            self.inspection.forget()
            self._failed_probes += 1
            self.is_up = self.is_up and self._failed_probes < PROBES_TO_GO_DOWN
            return
        self._failed_probes = 0
        if not self.is_up or (not self.breaker.is_closed and self.breaker.fault == "unreachable"):
            self.is_up = True
            self._aside_until = 0.0
            self.answered(now)
            self._warm_since = now

    def _step_aside(self, error: EngineBusyError, now: float) -> None:
        seconds = error.engine_asks_seconds
        if seconds is None:
            seconds = pause_seconds(self._model.retries, self.refusals, 1.0)
        self.refusals += 1
        self._aside_until = max(self._aside_until, now + seconds)
