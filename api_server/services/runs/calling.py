"""Does the calls of a run that are done here, and waits for a client's outputs of the others."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import msgspec

from api_server.errors import ApiError
from api_server.services.runs.endings import ended_step
from api_server.services.runs.objects import run_object, step_object, to_json
from api_server.services.runs.stopping import Stop
from api_server.services.runs.tools import Context, Result
from api_server.services.runs.under_way import UnderWay
from api_server.stores.run_rows import Action

log = logging.getLogger(__name__)


class Calling:
    """Of one leg."""

    def __init__(self, work: UnderWay, stop: Stop) -> None:
        self._work = work
        self._stop = stop

    async def call_tools(self) -> bool:
        """Do what is to be done here of the calls that are open; whether a client must go on."""
        step = next((each for each in self._work.steps if each.status == "in_progress"), None)
        if step is None:
            return False
        calls = [each for each in self._work.actions if each.step_id == step.id]
        ours = [each for each in calls if each.is_ours and each.status == "pending"]
        if ours:
            await self._work.pen.flush()  # from here on it is known that these are called
        if self._work.wish.parallel_tool_calls:
            await self._stop.unless(_all(self._call(step.id, each) for each in ours))
        else:
            for each in ours:
                await self._stop.unless(self._call(step.id, each))
        theirs = [each for each in calls if not each.is_ours and each.status == "pending"]
        number = self._work.number_of(step.id)
        step, now, pen = self._work.steps[number], self._work.now(), self._work.pen
        if not theirs:
            done = ended_step(step, "completed", now)
            self._work.steps[number] = done
            pen.note(steps=[done], events=[("thread.run.step.completed", step_object(done))])
            return False
        required = {
            "type": "submit_tool_outputs",
            "submit_tool_outputs": {"tool_calls": [_required(each) for each in theirs]},
        }
        await pen.flush()
        before = pen.run
        waiting = replace(before, status="requires_action", required_action=to_json(required))
        events = [("thread.run.requires_action", run_object(waiting))]
        await pen.commit(waiting, events=events)
        return True

    def citations(self, text: str) -> list[dict[str, Any]]:
        """The annotations of a text by what was called before it."""
        annotations: list[dict[str, Any]] = []
        for server_tool in {id(tool): tool for tool, _ in self._work.here.values()}.values():
            if server_tool.type == "function":
                continue
            shown = [
                call[server_tool.type]
                for step in self._work.steps
                if step.type == "tool_calls"
                for call in msgspec.json.decode(step.details)["tool_calls"]
                if call["type"] == server_tool.type
            ]
            if shown:
                annotations += server_tool.cite(text, shown)
        return annotations

    # inside

    async def _call(self, step_id: str, action: Action) -> None:
        """Do one call, and write down what came of it."""
        found = self._work.here.get(action.name)
        if found is None:
            result, status = Result(f"There is no function {action.name!r}."), "failed"
        else:
            server_tool, tool = found
            context = Context(
                caller=self._work.caller,
                thread_id=self._work.pen.run.thread_id,
                run_id=self._work.pen.run.id,
                tool=tool,
                resources=self._work.wish.tool_resources,
                thread_resources=self._work.thread_resources,
            )
            result, status = await _outcome(server_tool.call(context, action.arguments), action)
        output = result.output.replace("\0", "")
        done = replace(action, status=status, output=output, ended_at=self._work.now())  # type: ignore[arg-type]
        self._work.actions[self._work.actions.index(action)] = done
        number = self._work.number_of(step_id)
        details = msgspec.json.decode(self._work.steps[number].details)
        for call in details["tool_calls"]:
            if call["id"] == action.tool_call_id:
                if call["type"] == "function":
                    call["function"]["output"] = output
                else:
                    call[call["type"]] = result.details
        self._work.steps[number] = step = replace(
            self._work.steps[number], details=to_json(details)
        )
        self._work.pen.note(steps=[step], actions=[done])
        await self._work.pen.flush()


async def _outcome(work: Awaitable[Result], action: Action) -> tuple[Result, str]:
    """The model is told of errors, so that it can do something about them."""
    try:
        return await work, "completed"
    except ApiError as exc:
        return Result(f"The call failed: {exc.message}"), "failed"
    except Exception:  # a tool's defect is the model's to live with
        log.exception("a tool of a run failed", extra={"tool": action.name})
        return Result("The call failed."), "failed"


async def _all(works: Any) -> None:
    """All at the same time; none is left behind."""
    tasks = [asyncio.create_task(work) for work in works]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    for task in tasks:
        task.result()


def _required(action: Action) -> dict[str, Any]:
    function = {"name": action.name, "arguments": action.arguments}
    return {"id": action.tool_call_id, "type": "function", "function": function}
