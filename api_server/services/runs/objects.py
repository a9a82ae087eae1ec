"""Runs, steps and messages as OpenAI's objects, and the events of their streams. Pure."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from api_server.schemas.runs import Wish
from api_server.stores.run_rows import Event, Run, Spoken, Step

Json = dict[str, Any]

_WISH = msgspec.json.Decoder(Wish)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SHOWN = (
    *("model", "instructions", "tools", "temperature", "top_p", "max_prompt_tokens"),
    *("max_completion_tokens", "truncation_strategy", "tool_choice", "parallel_tool_calls"),
    "response_format",
)

STOPS = frozenset(
    f"thread.run.{each}"
    for each in ("requires_action", "completed", "incomplete", "failed", "cancelled", "expired")
)
"""After these a run does nothing more by itself, so that streams end."""

FINAL = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})


def wish_of(run: Run) -> Wish:
    """What a run was asked for."""
    return _WISH.decode(run.body)


def run_object(run: Run) -> Json:
    """`RunObject` of the reference."""
    body = _FIELDS.decode(run.body)
    usage = None
    if run.status in FINAL:
        usage = usage_of(run.prompt_tokens, run.completion_tokens)
    has_time = run.status not in FINAL or run.status == "expired"
    return {
        "id": run.id,
        "object": "thread.run",
        "created_at": seconds(run.created_at),
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "status": run.status,
        "required_action": raw(run.required_action),
        "last_error": raw(run.last_error),
        "expires_at": seconds(run.expires_at) if has_time else None,
        "started_at": seconds(run.started_at),
        "cancelled_at": seconds(run.cancelled_at),
        "failed_at": seconds(run.failed_at),
        "completed_at": seconds(run.completed_at),
        "incomplete_details": raw(run.incomplete_details),
        "metadata": msgspec.Raw(run.metadata.encode()),
        "usage": usage,
        **{name: body[name] for name in _SHOWN},
    }


def step_object(step: Step, *, with_results: bool = True) -> Json:
    """`RunStepObject` of the reference. What a search found is shown only on request; events keep
    it, and `shown_event` takes it out.
    """
    details: Any = raw(step.details)
    if step.type == "tool_calls" and not with_results and b"file_search" in step.details.encode():
        details = without_results(msgspec.json.decode(step.details))
    return {
        "id": step.id,
        "object": "thread.run.step",
        "created_at": seconds(step.created_at),
        "assistant_id": step.assistant_id,
        "thread_id": step.thread_id,
        "run_id": step.run_id,
        "type": step.type,
        "status": step.status,
        "step_details": details,
        "last_error": raw(step.last_error),
        "expired_at": seconds(step.expired_at),
        "cancelled_at": seconds(step.cancelled_at),
        "failed_at": seconds(step.failed_at),
        "completed_at": seconds(step.completed_at),
        "metadata": {},
        "usage": raw(step.usage),
    }


def without_results(details: Json) -> Json:
    """Step details without the text of what a search has found."""
    for call in details["tool_calls"]:
        for result in (call.get("file_search") or {}).get("results") or ():
            result.pop("content", None)
    return details


def shown_event(event: Event, *, with_results: bool) -> Event:
    """As a stream has it: what a search found is in it only on request."""
    if with_results or not event.event.startswith("thread.run.step."):
        return event
    if '"file_search"' not in event.data:
        return event
    told = msgspec.json.decode(event.data)
    if told.get("type") == "tool_calls":
        without_results(told["step_details"])
    return replace(event, data=to_json(told))


def spoken_object(message: Spoken, run: Run) -> Json:
    """`MessageObject` of the reference, of a message that a run makes."""
    return {
        "id": message.id,
        "object": "thread.message",
        "created_at": seconds(message.created_at),
        "assistant_id": run.assistant_id,
        "thread_id": run.thread_id,
        "run_id": run.id,
        "status": message.status,
        "incomplete_details": raw(message.incomplete_details),
        "incomplete_at": seconds(message.incomplete_at),
        "completed_at": seconds(message.completed_at),
        "role": "assistant",
        "content": raw(message.content),
        "attachments": [],
        "metadata": {},
    }


def message_delta(message_id: str, index: int, value: str) -> Json:
    """`MessageDeltaObject`: a piece of text."""
    part = {"index": index, "type": "text", "text": {"value": value}}
    return {
        "id": message_id,
        "object": "thread.message.delta",
        "delta": {"content": [part]},
    }


def citation_delta(message_id: str, annotations: list[Json]) -> Json:
    """`MessageDeltaObject`: what a text cites, which is known at its end."""
    numbered = [{"index": number} | each for number, each in enumerate(annotations)]
    part = {"index": 0, "type": "text", "text": {"annotations": numbered}}
    return {"id": message_id, "object": "thread.message.delta", "delta": {"content": [part]}}


def step_delta(step_id: str, calls: list[Json]) -> Json:
    """`RunStepDeltaObject`: pieces of calls, each with its `index`."""
    details = {"type": "tool_calls", "tool_calls": calls}
    return {
        "id": step_id,
        "object": "thread.run.step.delta",
        "delta": {"step_details": details},
    }


def text_content(text: str, annotations: list[Json] | None = None) -> str:
    """The content of a message, as JSON."""
    if not text:
        return "[]"
    return to_json([{"type": "text", "text": {"value": text, "annotations": annotations or []}}])


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """`RunCompletionUsage`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def to_json(content: Any) -> str:
    return msgspec.json.encode(content).decode()


def raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def seconds(moment: datetime | None) -> int | None:
    """Of the epoch."""
    return None if moment is None else int(moment.timestamp())
