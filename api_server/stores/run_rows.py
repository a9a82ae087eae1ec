"""The rows of runs: what is kept of a run, its steps, its calls of functions, its events.

JSON columns are text. Whoever changes one replaces it by another (`dataclasses.replace`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, TypeVar

from api_server.stores.postgres import Row

RunStatus = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]
StepStatus = Literal["in_progress", "cancelled", "failed", "completed", "expired"]
ActionStatus = Literal["pending", "completed", "failed", "cancelled", "expired"]

ACTIVE: frozenset[str] = frozenset({"queued", "in_progress", "requires_action", "cancelling"})
"""A thread has no more than one run in these states."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is kept. `body` is what it was asked for; the tokens are those so far."""

    id: str
    thread_id: str
    app_id: str
    user_name: str | None
    assistant_id: str
    created_at: datetime
    status: RunStatus
    body: str
    metadata: str
    job_id: str
    expires_at: datetime | None
    leg: int = 1
    last_event: int = 0
    required_action: str | None = None
    last_error: str | None = None
    can_resume: bool = False
    incomplete_details: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started_at: datetime | None = None
    cancelled_at: datetime | None = None
    failed_at: datetime | None = None
    completed_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step: a message that is made, or calls of tools. `details` is its `step_details`."""

    id: str
    run_id: str
    thread_id: str
    assistant_id: str
    created_at: datetime
    type: Literal["message_creation", "tool_calls"]
    status: StepStatus
    details: str
    last_error: str | None = None
    usage: str | None = None
    expired_at: datetime | None = None
    cancelled_at: datetime | None = None
    failed_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One call of a function; `is_ours` where the stack does it, else a client must."""

    id: str
    thread_id: str
    run_id: str
    step_id: str
    tool_call_id: str
    name: str
    arguments: str
    is_ours: bool
    status: ActionStatus
    output: str | None
    created_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """A message that a run makes."""

    id: str
    run_id: str
    created_at: datetime
    status: Literal["in_progress", "incomplete", "completed"]
    content: str
    incomplete_details: str | None = None
    completed_at: datetime | None = None
    incomplete_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One of a run's stream: its number, its name, its object as JSON."""

    n: int
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the thread, for the model. `content` is a JSON list of parts."""

    id: str
    role: Literal["user", "assistant"]
    run_id: str | None
    content: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that a leg begins with; `at` is PostgreSQL's clock. `heard` is the conversation so far,
    of a run that is new.
    """

    run: Run
    steps: Sequence[Step]
    actions: Sequence[Action]
    half_messages: Sequence[str]
    thread_resources: str | None
    at: datetime
    heard: Sequence[Heard] | None = None


@dataclass(slots=True)
class Change:
    """What is to be written of one run, all or nothing. The newest of each row counts.

    `fence` is of the job that does the run; None for a caller who has locked the run.
    """

    run: Run
    fence: int | None = None
    steps: dict[str, Step] = field(default_factory=dict)
    messages: dict[str, Spoken] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    gone_messages: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)

    def add(self, later: "Change") -> None:
        """Take in what comes after this."""
        self.run = later.run
        self.steps.update(later.steps)
        self.messages.update(later.messages)
        self.actions.update(later.actions)
        self.gone_messages |= later.gone_messages
        self.events += later.events


def read_row(shape: type[T], row: Row) -> T:
    """A row as one of these."""
    names = [each.name for each in fields(shape)]  # type: ignore[arg-type]
    return shape(**{name: row[name] for name in names})


def as_json(row: Any, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A row as a JSON object for `json_to_recordset`, its JSON columns spliced in later."""
    return {each.name: getattr(row, each.name) for each in fields(row) if each.name not in without}
