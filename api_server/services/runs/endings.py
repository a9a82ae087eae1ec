"""How a run ends, and what was under way in it with it. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from api_server.services.runs.objects import run_object, spoken_object, step_object, to_json
from api_server.stores.run_rows import Action, ActionStatus, Run, Spoken, Step, StepStatus

FinalStatus = Literal["cancelled", "failed", "completed", "incomplete", "expired"]
ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
Reason = Literal["max_completion_tokens", "max_prompt_tokens"]

_OF_STEPS: dict[FinalStatus, StepStatus] = {
    "cancelled": "cancelled",
    "failed": "failed",
    "completed": "completed",
    "incomplete": "failed",
    "expired": "expired",
}
_OF_ACTIONS: dict[FinalStatus, ActionStatus] = {
    "cancelled": "cancelled",
    "failed": "failed",
    "completed": "completed",
    "incomplete": "failed",
    "expired": "expired",
}
_OF_MESSAGES: dict[FinalStatus, str] = {
    "cancelled": "run_cancelled",
    "failed": "run_failed",
    "incomplete": "max_tokens",
    "expired": "run_expired",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How: a state, and why. `error` is of failed runs, `reason` of incomplete ones."""

    status: FinalStatus
    error: tuple[ErrorCode, str] | None = None
    can_resume: bool = False
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The rows and events of an ending."""

    run: Run
    steps: list[Step] = field(default_factory=list)
    messages: list[Spoken] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    events: list[tuple[str, object]] = field(default_factory=list)


CANCELLED = Ending("cancelled")
EXPIRED = Ending("expired", can_resume=True)


def close(
    run: Run,
    ending: Ending,
    at: datetime,
    *,
    steps: Iterable[Step] = (),
    messages: Iterable[tuple[Spoken, str]] = (),
    actions: Sequence[Action] = (),
) -> Closed:
    """End a run. `steps` and `actions` are all that it has, of which those that are open end too;
    `messages` are those that are open, with their content so far.
    """
    closed = Closed(ended_run(run, ending, at))
    for message, content in messages:
        half = replace(
            message,
            status="incomplete",
            content=content,
            incomplete_details=to_json({"reason": _OF_MESSAGES[ending.status]}),
            incomplete_at=at,
        )
        closed.messages.append(half)
        closed.events.append(("thread.message.incomplete", spoken_object(half, run)))
    for step in steps:
        if step.status == "in_progress":
            is_cut = ending.status == "incomplete" and step.type == "message_creation"
            status = "completed" if is_cut else _OF_STEPS[ending.status]
            closed_step = ended_step(step, status, at, ending.error)
            closed.steps.append(closed_step)
            closed.events.append((f"thread.run.step.{status}", step_object(closed_step)))
    for action in actions:
        if action.status == "pending":
            closed.actions.append(replace(action, status=_OF_ACTIONS[ending.status], ended_at=at))
    closed.events.append((f"thread.run.{ending.status}", run_object(closed.run)))
    return closed


Ended = Callable[[FinalStatus, float], None]
"""Told of each run that ended: how, and how many seconds after its creation."""


def tell_ended(ended: Ended, run: Run) -> None:
    """Of a run whose end is written."""
    if run.ended_at is not None and run.status in _OF_STEPS:
        ended(run.status, (run.ended_at - run.created_at).total_seconds())


def ended_run(run: Run, ending: Ending, at: datetime) -> Run:
    """The run alone."""
    error = None
    if ending.error is not None:
        error = to_json({"code": ending.error[0], "message": ending.error[1]})
    details = to_json({"reason": ending.reason}) if ending.reason is not None else None
    return replace(
        run,
        status=ending.status,
        required_action=None,
        last_error=error,
        can_resume=ending.can_resume,
        incomplete_details=details,
        cancelled_at=at if ending.status == "cancelled" else None,
        failed_at=at if ending.status == "failed" else None,
        completed_at=at if ending.status in ("completed", "incomplete") else None,
        ended_at=at,
    )


def ended_step(
    step: Step, status: StepStatus, at: datetime, error: tuple[str, str] | None = None
) -> Step:
    """A step with its end."""
    last_error = None
    if status == "failed":
        code, message = error or ("server_error", "The step was not completed.")
        code = code if code == "rate_limit_exceeded" else "server_error"
        last_error = to_json({"code": code, "message": message})
    return replace(
        step,
        status=status,
        last_error=last_error,
        usage=step.usage or to_json(NO_USAGE),
        expired_at=at if status == "expired" else None,
        cancelled_at=at if status == "cancelled" else None,
        failed_at=at if status == "failed" else None,
        completed_at=at if status == "completed" else None,
    )


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def resumable(run: Run, message: str) -> str:
    """What to say of a run that failed and may go on."""
    return (
        f"{message} What was completed is kept; the run can be resumed: "
        f"POST /v1/threads/{run.thread_id}/runs/{run.id}/resume."
    )


def not_resumable(message: str) -> str:
    """What to say of one that may not."""
    return f"{message} The run cannot be resumed."
