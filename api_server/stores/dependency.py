"""A backing service as its users see it: every call has a time budget, and an outage costs nobody
more than a few of them.

Time-outs count as failures. After some in a row calls fail at once, until one that is let through
as a trial finds the service well again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from api_server.errors import DependencyDownError

T = TypeVar("T")
State = Literal["up", "down"]

FAILURES = 3
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Dependency:
    """Guards the calls to one service. `faults` are the errors that mean that it is away.

    Other errors pass as they are: they tell of the call, not of the service.
    """

    def __init__(
        self,
        name: str,
        faults: tuple[type[BaseException], ...],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.notice: Callable[[State], None] | None = None
        self._faults = faults
        self._clock = clock
        self._failures = 0
        self._pause_seconds = 0.0
        self._open_until: float | None = None
        self._is_on_trial = False
        self._abandoned: set[asyncio.Task[object]] = set()

    @property
    def is_up(self) -> bool:
        """Whether calls go through, as far as is known."""
        return self._open_until is None

    async def call(self, operation: Callable[[], Awaitable[T]], *, budget_seconds: float) -> T:
        """Do it within the budget. Raises `DependencyDownError` where the service is away.

        What takes longer is cancelled and left behind: nobody waits for its clean-up, which a
        service that hangs would delay as well.
        """
        is_trial = self._let_through()
        task = asyncio.ensure_future(operation())
        try:
            await asyncio.wait({task}, timeout=budget_seconds)
        finally:
            if not task.done():
                self._abandon(task)
            if is_trial:
                self._is_on_trial = False
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
        self._failures = 0
        self._pause_seconds = 0.0
        if self._open_until is not None:
            self._open_until = None
            log.warning("a dependency is back", extra={"dependency": self.name})
            self._tell("up")

    def _failed(self, reason: str, *, is_trial: bool) -> None:
        self._failures += 1
        was_open = self._open_until is not None
        if was_open and not is_trial:
            return  # it was under way when others failed, and tells nothing new
        if not was_open and self._failures < FAILURES:
            return
        longer = 2 * self._pause_seconds or FIRST_PAUSE_SECONDS
        self._pause_seconds = min(longer, LONGEST_PAUSE_SECONDS)
        # With jitter, so that many processes do not come back in the same moment.
        jitter = random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        self._open_until = self._clock() + self._pause_seconds * jitter
        if not was_open:
            log.warning("a dependency is away", extra={"dependency": self.name, "reason": reason})
            self._tell("down")

    def _tell(self, state: State) -> None:
        if self.notice is not None:
            self.notice(state)

    def _error(self) -> DependencyDownError:
        left = max(0.0, (self._open_until or 0.0) - self._clock())
        return DependencyDownError(self.name, retry_after_seconds=max(1.0, left))
