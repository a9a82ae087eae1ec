"""One answer of the model as a run shows it: a message that grows, calls of tools, or both."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from api_server.schemas.assistants import Tool
from api_server.schemas.ids import new_id
from api_server.services.runs.hearing import Answer, Piece
from api_server.services.runs.objects import (
    citation_delta,
    message_delta,
    spoken_object,
    step_delta,
    step_object,
    text_content,
    to_json,
    usage_of,
)
from api_server.services.runs.tools import ServerTool
from api_server.services.runs.writing import Pen
from api_server.stores.run_rows import Action, Run, Spoken, Step

Json = dict[str, Any]
Here = Mapping[str, tuple[ServerTool, Tool]]
"""The tools that are done here, by the names that the model calls."""


class Reply:
    """Rows and events of one answer. Nothing of it is complete before the whole answer is."""

    def __init__(self, pen: Pen, here: Here, functions: frozenset[str]) -> None:
        self.answer = Answer()
        self.message: Spoken | None = None
        self.message_step: Step | None = None
        self.calls_step: Step | None = None
        self.call_ids: list[str] = []
        self._pen = pen
        self._here = here
        self._functions = functions

    @property
    def has_begun(self) -> bool:
        return self.message is not None or self.calls_step is not None

    @property
    def steps(self) -> list[Step]:
        return [each for each in (self.message_step, self.calls_step) if each is not None]

    @property
    def half_messages(self) -> list[tuple[Spoken, str]]:
        """The message that is open, with its text so far."""
        if self.message is None or self.message.status != "in_progress":
            return []
        return [(self.message, text_content(self.answer.text))]

    def hear(self, piece: Piece, at: datetime) -> None:
        """Show what is new."""
        if piece.text:
            message = self.message or self.begin_message(at)
            delta = message_delta(message.id, 0, piece.text)
            self._pen.note(events=[("thread.message.delta", delta)])
        if piece.calls:
            step = self.calls_step or self._begin_calls(at)
            deltas = [self._delta(call) for call in piece.calls]
            told = [each for each in deltas if each is not None]
            if told:
                self._pen.note(events=[("thread.run.step.delta", step_delta(step.id, told))])

    def begin_message(self, at: datetime) -> Spoken:
        run = self._pen.run
        message = Spoken(new_id("msg"), run.id, at, "in_progress", "[]")
        details = {"type": "message_creation", "message_creation": {"message_id": message.id}}
        step = _new_step(run, "message_creation", details, at)
        shown, spoken = step_object(step), spoken_object(message, run)
        self.message, self.message_step = message, step
        self._pen.note(
            steps=[step],
            messages=[message],
            events=[
                ("thread.run.step.created", shown),
                ("thread.run.step.in_progress", shown),
                ("thread.message.created", spoken),
                ("thread.message.in_progress", spoken),
            ],
        )
        return message

    def finish_message(
        self, at: datetime, annotations: list[Json]
    ) -> tuple[Spoken, list[tuple[str, object]]]:
        """The whole message, and its events."""
        message = self.message or self.begin_message(at)
        events: list[tuple[str, object]] = []
        if annotations:
            delta = citation_delta(message.id, annotations)
            events.append(("thread.message.delta", delta))
        content = text_content(self.answer.text, annotations)
        self.message = done = replace(message, status="completed", content=content, completed_at=at)
        events.append(("thread.message.completed", spoken_object(done, self._pen.run)))
        return done, events

    def calls(self, at: datetime) -> tuple[Step, list[Action]]:
        """The step with all calls of the answer, and what is to be done of them."""
        step = self.calls_step
        assert step is not None, "an answer that calls has begun a step"
        shown, actions = [], []
        for call_id, call in zip(self.call_ids, self.answer.calls, strict=True):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            is_ours = name in self._here or name not in self._functions
            actions.append(
                Action(
                    *(new_id("action"), step.thread_id, step.run_id, step.id, call_id),
                    name=name,
                    arguments=arguments,
                    is_ours=is_ours,
                    status="pending",
                    output=None,
                    created_at=at,
                )
            )
            shown.append(self.shown(call_id, name, arguments))
        details = to_json({"type": "tool_calls", "tool_calls": shown})
        self.calls_step = step = replace(step, details=details)
        return step, actions

    def shown(self, call_id: str, name: str, arguments: str) -> Json:
        """A call as a step shows it."""
        found = self._here.get(name)
        if found is not None and found[0].type != "function":
            return {"id": call_id, "type": found[0].type, found[0].type: {}}
        function = {"name": name, "arguments": arguments, "output": None}
        return {"id": call_id, "type": "function", "function": function}

    # inside

    def _begin_calls(self, at: datetime) -> Step:
        step = _new_step(self._pen.run, "tool_calls", {"type": "tool_calls", "tool_calls": []}, at)
        shown = step_object(step)
        self.calls_step = step
        events = [("thread.run.step.created", shown), ("thread.run.step.in_progress", shown)]
        self._pen.note(steps=[step], events=events)
        return step

    def _delta(self, told: Json) -> Json | None:
        while len(self.call_ids) <= told["index"]:
            self.call_ids.append(new_id("call"))
        index = {"index": told["index"]}
        if told["is_new"]:
            call_id = self.call_ids[told["index"]]
            return index | self.shown(call_id, told["name"], told["arguments"])
        name = self.answer.calls[told["index"]]["function"]["name"]
        if name in self._here and self._here[name][0].type != "function":
            return None
        return index | {"type": "function", "function": {"arguments": told["arguments"]}}


def with_usage(step: Step, prompt_tokens: int, completion_tokens: int) -> Step:
    """A step with what its answer took."""
    return replace(step, usage=to_json(usage_of(prompt_tokens, completion_tokens)))


def _new_step(run: Run, type_: Any, details: Json, at: datetime) -> Step:
    return Step(
        id=new_id("step"),
        run_id=run.id,
        thread_id=run.thread_id,
        assistant_id=run.assistant_id,
        created_at=at,
        type=type_,
        status="in_progress",
        details=to_json(details),
    )
