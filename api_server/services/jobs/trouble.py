"""What becomes of a job whose model did not answer. Pure, but for the chance in a pause."""

import random
from dataclasses import dataclass
from typing import Literal

from api_server.errors import (
    ApiError,
    DependencyDownError,
    EngineTimeoutError,
    InvalidKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    NotAllowedError,
    OverloadedError,
    RateLimitedError,
    ResourceNotAvailableError,
    ShuttingDownError,
    TurnOverError,
)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PutOff:
    """Later, and meanwhile no others of this model, of this app, or none at all.

    `is_trouble`: what follows in a row waits longer each time.
    """

    because_of: Literal["model", "app", "all"]
    at_least_seconds: float
    is_trouble: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """Ended with an error."""

    error_code: Literal["AI_SERVICE_ERROR", "TIMEOUT", "INVALID_REQUEST"]
    retry_possible: bool


def outcome_of(error: ApiError) -> PutOff | Failed:
    """Whether a job waits for better times, or has failed."""
    seconds = error.retry_after_seconds or 0.0
    if isinstance(error, RateLimitedError):
        return PutOff("app", seconds, is_trouble=not isinstance(error, TurnOverError))
    if isinstance(error, OverloadedError | ResourceNotAvailableError):
        return PutOff("model", seconds)
    if isinstance(error, DependencyDownError | ShuttingDownError):
        return PutOff("all", seconds)
    unfit = InvalidRequestError | ModelNotFoundError | NotAllowedError | InvalidKeyError
    if isinstance(error, unfit):
        return Failed("INVALID_REQUEST", retry_possible=False)
    if isinstance(error, EngineTimeoutError):
        return Failed("TIMEOUT", retry_possible=True)
    return Failed("AI_SERVICE_ERROR", retry_possible=True)


def pause_seconds(tries: int, at_least: float) -> float:
    """Doubled with each try in a row, never less than was asked for; with jitter, since many
    workers wait for the same engine.
    """
    backoff = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 16))
    return max(at_least, backoff) * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
