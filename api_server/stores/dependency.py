"""A backing service as its users see it: every call has a time budget, and an outage costs nobody
more than a few of them.

Time-outs count as failures. After some of them calls fail at once, those under way too, until one
that is let through as a trial finds the service well again. What was away lately is trusted less:
one failure is enough then, and the pause before the next trial grows. So a service that comes and
goes is away for us.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from api_server.errors import DependencyDownError

T = TypeVar("T")
State = Literal["up", "down"]

FAILURES = 3
FORGIVEN = 0.05
"""Of a failure, by each success: what fails rarely is well."""

FORGET_SECONDS = 5.0
"""A success so long after the last failure makes up for all."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
TRIAL_SECONDS = 2.0
"""A trial gets no more, whatever its budget: all others wait for it."""

STALLED_SECONDS = 0.01
"""When a time-out comes so late, the event loop did not turn: that says nothing of the service."""

GRACE_SECONDS = 0.05

log = logging.getLogger(__name__)


class Dependency:
    """Guards the calls to one service. `faults` are the errors that mean that it is away.

    Other errors pass as they are: they tell of the call, not of the service. One that `remembers`
    trusts a service less that was away lately; else any success makes up for everything.
    """

    def __init__(
        self,
        name: str,
        faults: tuple[type[BaseException], ...],
        *,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        remembers: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.notice: Callable[[State], None] | None = None
        self._faults = faults
        self._remembers = remembers
        self._longest_pause_seconds = longest_pause_seconds
        self._clock = clock
        self._failures = 0.0
        self._failed_at = 0.0
        self._pause_seconds = 0.0
        self._open_until: float | None = None
        self._is_on_trial = False
        self._outage: asyncio.Future[None] | None = None
        self._abandoned: set[asyncio.Task[object]] = set()

    @property
    def is_up(self) -> bool:
        """Whether calls go through, as far as is known."""
        return self._open_until is None

    @property
    def is_on_trial(self) -> bool:
        """Whether one call is let through to find out."""
        return self._is_on_trial

    @property
    def may_connect(self) -> bool:
        """Whether a new connection is worth its while: no outage, or this is the trial."""
        return self._open_until is None or self._is_on_trial

    async def call(self, operation: Callable[[], Awaitable[T]], *, budget_seconds: float) -> T:
        """Do it within the budget. Raises `DependencyDownError` where the service is away.

        What takes longer is cancelled and left behind: nobody waits for its clean-up, which a
        service that hangs would delay as well.
        """
        is_trial = self._let_through()
        if is_trial:
            budget_seconds = min(budget_seconds, TRIAL_SECONDS)
        task = asyncio.ensure_future(operation())
        outage = None if is_trial else self._next_outage()
        try:
            await self._wait(task, outage, budget_seconds)
        finally:
            if not task.done():
                self._abandon(task)
            if is_trial:
                self._is_on_trial = False
        if outage is not None and outage.done() and not task.done():
            raise self._error()
        if not task.done() or task.cancelled():
            self._failed(f"no answer within {budget_seconds:g} s", is_trial=is_trial)
            raise self._error()
        try:
            result = task.result()
        except self._faults as exc:
            self._failed(type(exc).__name__, is_trial=is_trial)
            raise self._error() from exc
        self._succeeded()
        return result

    async def aclose(self) -> None:
        """Wait a moment for calls that were left behind."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=0.5)

    def _let_through(self) -> bool:
        """Raises at once while the service is away; says whether this call is the trial."""
        if self._open_until is None:
            return False
        if self._is_on_trial or self._clock() < self._open_until:
            raise self._error()
        self._is_on_trial = True
        return True

    def _next_outage(self) -> "asyncio.Future[None]":
        """Done when calls begin to fail at once."""
        if self._outage is None:
            self._outage = asyncio.get_running_loop().create_future()
        return self._outage

    async def _wait(
        self,
        task: "asyncio.Future[T]",
        outage: "asyncio.Future[None] | None",
        budget_seconds: float,
    ) -> None:
        either: set[asyncio.Future[Any]] = {task} if outage is None else {task, outage}
        began = self._clock()
        await asyncio.wait(either, timeout=budget_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and self._clock() - began > budget_seconds + STALLED_SECONDS:
            await asyncio.wait(either, timeout=GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    def _abandon(self, task: "asyncio.Future[T]") -> None:
        task.cancel()
        kept: asyncio.Task[object] = task  # type: ignore[assignment]
        self._abandoned.add(kept)
        kept.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[object]") -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # read, so that nobody is told that it never was

    def _succeeded(self) -> None:
        if self._open_until is not None:
            self._open_until = None
            self._failures, self._failed_at = float(FAILURES), self._clock()
            log.warning("a dependency is back", extra={"dependency": self.name})
            self._tell("up")
        elif self._failures:
            is_forgotten = self._clock() - self._failed_at > FORGET_SECONDS
            self._failures = 0.0 if is_forgotten else max(0.0, self._failures - FORGIVEN)
        if not self._remembers:
            self._failures = 0.0
        if not self._failures:
            self._pause_seconds = 0.0

    def _failed(self, reason: str, *, is_trial: bool) -> None:
        self._failures += 1
        self._failed_at = self._clock()
        was_open = self._open_until is not None
        if was_open and not is_trial:
            return  # it was under way when others failed, and tells nothing new
        if not was_open and self._failures < FAILURES:
            return
        longer = 2 * self._pause_seconds or FIRST_PAUSE_SECONDS
        self._pause_seconds = min(longer, self._longest_pause_seconds)
        # With jitter, so that many processes do not come back in the same moment.
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        self._open_until = self._clock() + self._pause_seconds * jitter
        if not was_open:
            log.warning("a dependency is away", extra={"dependency": self.name, "reason": reason})
            self._tell("down")
        if self._outage is not None:
            self._outage.set_result(None)
            self._outage = None

    def _tell(self, state: State) -> None:
        if self.notice is not None:
            self.notice(state)

    def _error(self) -> DependencyDownError:
        left = max(0.0, (self._open_until or 0.0) - self._clock())
        return DependencyDownError(self.name, retry_after_seconds=max(1.0, left))
