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

Fault = Literal["unreachable", "silent", "broken"]
"""Not reached, or gone before it answered; nothing heard in time; answers that are errors."""


def fault_of(error: ApiError) -> Fault | None:
    """What an error says about the replica; None if it is no fault of the replica's. Pure."""
    if isinstance(error, EngineTimeoutError):
        return "silent"
    if isinstance(error, NoAnswerError | TruncatedAnswerError):
        return "unreachable"
    if isinstance(error, EngineBusyError):
        return None
    if isinstance(error, ResourceNotAvailableError):
        return "unreachable"
    return "broken" if isinstance(error, InferenceError) else None


class Breaker:
    """Closed; open after so many failures in a row; half-open, when a trial may be made.

    A failed trial opens it for twice as long, unless the replica could not even be reached: to
    knock costs nobody anything, so that is done every `open_seconds`. Times are the caller's, in
    seconds of any clock. Who passes (`begin`) must tell how it went, with what `begin` returned.
    """

    def __init__(self, settings: Balancing) -> None:
        self._settings = settings
        self._failures = 0
        self._open_seconds = 0.0
        self._has_trial = False
        self.open_until: float | None = None
        self.fault: Fault | None = None

    @property
    def is_closed(self) -> bool:
        return self.open_until is None

    def permits(self, now: float) -> bool:
        """Whether a request may pass."""
        return self.open_until is None or (now >= self.open_until and not self._has_trial)

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half-open"

    def begin(self) -> bool:
        """A request passes; returns whether it is the trial of an open breaker."""
        if self.open_until is None or self._has_trial:
            return False
        self._has_trial = True
        return True

    def completed(self) -> None:
        """An answer came to its end: the failures before it are forgotten."""
        self._failures = 0

    def abandoned(self, *, is_trial: bool) -> None:
        """The request ended without telling anything of the replica."""
        if is_trial:
            self._has_trial = False

    def failed(self, fault: Fault, now: float, *, is_trial: bool) -> None:
        """The replica failed a request."""
        self._failures += 1
        self.fault = fault
        if self.open_until is None:
            if self._failures >= self._settings.failures:
                self._open(now, self._settings.open_seconds)
        elif is_trial:
            longer = self._open_seconds * (1 if fault == "unreachable" else 2)
            self._open(now, min(longer, self._settings.max_open_seconds))

    def close(self) -> None:
        """Let all pass again."""
        self.open_until = None
        self._has_trial = False

    def _open(self, now: float, seconds: float) -> None:
        self._open_seconds = seconds
        self._has_trial = False
        self.open_until = now + seconds
