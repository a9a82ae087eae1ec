"""A circuit breaker: takes a replica out that fails, and lets one request try it now and then."""

from typing import Literal

from api_server.errors import (
    ApiError,
    EngineBusyError,
    EngineTimeoutError,
    InferenceError,
    NoAnswerError,
    ResourceNotAvailableError,
    TruncatedAnswerError,
)
from api_server.inference.catalogue import Balancing

Fault = Literal["unreachable", "dropped", "silent", "broken"]
"""Not reached; gone before it had answered; nothing heard in time; answers that are errors."""


def fault_of(error: ApiError) -> Fault | None:
    """What an error says about the replica; None if it is no fault of the replica's. Pure."""
    if isinstance(error, EngineTimeoutError):
        return "silent"
    if isinstance(error, NoAnswerError | TruncatedAnswerError):
        return "dropped"
    if isinstance(error, EngineBusyError):
        return None
    if isinstance(error, ResourceNotAvailableError):
        return "unreachable"
    return "broken" if isinstance(error, InferenceError) else None


class Breaker:
    """Closed; open after so many failures in a row; half-open, when a trial may be made.

    One that opens again before an answer came to its end stays open for twice as long, unless the
    replica could not even be reached: to knock costs nobody anything, so that is done every
    `open_seconds`. Times are the caller's, in seconds of any clock. Who passes (`begin`) must tell
    how it went, with the number that `begin` returned.
    """

    def __init__(self, settings: Balancing) -> None:
        self._settings = settings
        self._failures = 0
        self._open_seconds = 0.0
        self._trials = 0
        self._trial = 0
        self.open_until: float | None = None
        self.fault: Fault | None = None

    @property
    def is_closed(self) -> bool:
        return self.open_until is None

    def permits(self, now: float) -> bool:
        """Whether a request may pass."""
        return self.open_until is None or (now >= self.open_until and not self._trial)

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half-open"

    def begin(self) -> int:
        """A request passes; returns a number if it is the trial of an open breaker, else 0."""
        if self.open_until is None or self._trial:
            return 0
        self._trials += 1
        self._trial = self._trials
        return self._trial

    def completed(self) -> None:
        """An answer came to its end: what was before it is forgotten."""
        self._failures = 0
        self._open_seconds = 0.0

    def abandoned(self, trial: int) -> None:
        """The request ended without telling anything of the replica."""
        if trial == self._trial:
            self._trial = 0

    def failed(self, fault: Fault, now: float, trial: int) -> None:
        """The replica failed a request. Those from before it opened tell nothing new."""
        self._failures += 1
        if self.open_until is None:
            if self._failures >= self._settings.failures:
                self._open(fault, now)
        elif trial and trial == self._trial:
            self._open(fault, now)
        elif fault == "unreachable":
            self.fault = fault

    def close(self) -> None:
        """Let all pass again; the next failure opens it, unless an answer is completed before."""
        self._failures = self._settings.failures - 1
        self.open_until = None
        self._trial = 0

    def _open(self, fault: Fault, now: float) -> None:
        if fault == "unreachable" or not self._open_seconds:
            self._open_seconds = self._settings.open_seconds
        else:
            self._open_seconds = min(2 * self._open_seconds, self._settings.max_open_seconds)
        self.fault = fault
        self._trial = 0
        self.open_until = now + self._open_seconds
