"""One measured request: what every scenario produces and every figure is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "error", "refused", "cancelled"]
"""refused: 429 or 503 with a Retry-After. cancelled: the scenario itself left in the middle."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Times are seconds since the run began, on one clock for all processes of the run.

    `number` is which of the run's requests it is, from 0; `request_id` is the gateway's for it.
    `intended` is when it should have been sent: in an open loop the arrival, else equal to `sent`.
    `error` is a kind, never a text: "503 engine_unavailable", "connect", "timeout", "truncated".
    `stages` is the answer's Server-Timing in seconds (queue, engine, gateway), `prompt_seconds` and
    `decode_seconds` are the engine's own timings. Gaps are between events with text.
    """

    scenario: str
    intended: float
    sent: float
    ended: float
    outcome: Outcome
    first_token: float | None = None
    error: str | None = None
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    gap_mean: float | None = None
    gap_max: float | None = None
    retry_after: float | None = None
    is_warm: bool = False
    """Whether its prompt's beginning was sent before, so that a prefix cache may know it."""
    stages: Mapping[str, float] = field(default_factory=dict)
    prompt_seconds: float | None = None
    decode_seconds: float | None = None
    number: int = 0
    request_id: str | None = None
    attempt: int = 1
    """2 and more: it was refused before, and came again when its Retry-After said."""
    tokens_estimated: bool = False
    """No usage came: `completion_tokens` are the events with text."""

    @property
    def latency(self) -> float:
        """From the intended time to the last byte."""
        return self.ended - self.intended
