"""Tries an engine again while it is away, before a single byte of an answer has come."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from api_server.errors import ApiError, NoAnswerError, ResourceNotAvailableError

T = TypeVar("T")

TRIES_AFTER_NO_ANSWER = 1
"""A request that an engine has seen and dropped may be what brought it down: once more only.

(The handler itself replaces a kept connection that proves dead before the request was heard.)
"""


@dataclass(frozen=True)
class Backoff:
    """Pauses between tries, in seconds: doubled each time, half of each is chance."""

    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 2.0

    def delay_seconds(self, failures: int, chance: float) -> float:
        """The pause after so many failures; `chance` lies between 0 and 1. Pure."""
        longest = min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** min(failures, 32))
        return longest * (0.5 + chance / 2)


async def persist(
    attempt: Callable[[], Awaitable[T]],
    backoff: Backoff,
    deadline: float,
    on_retry: Callable[[ApiError], None],
) -> T:
    """The first answer of `attempt`, tried again while the engine is away until `deadline`.

    `deadline` is in the loop's time. Raises the last error; what an engine said on purpose (a 400,
    a 500) is not tried again.
    """
    loop = asyncio.get_running_loop()
    failures = unanswered = 0
    while True:
        try:
            return await attempt()
        except ResourceNotAvailableError as exc:
            error: ApiError = exc
            asked_seconds = exc.engine_asks_seconds or 0.0
        except NoAnswerError as exc:
            unanswered += 1
            if unanswered > TRIES_AFTER_NO_ANSWER:
                raise
            error = exc
            asked_seconds = 0.0
        pause = backoff.delay_seconds(failures, random.random())  # noqa: S311 - jitter, no secret
        pause = max(pause, asked_seconds)
        if loop.time() + pause >= deadline:
            raise error
        on_retry(error)
        failures += 1
        await asyncio.sleep(pause)
