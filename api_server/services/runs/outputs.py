"""Takes the outputs of the calls that a run waits for; it goes on then."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.apps import Caller
from api_server.schemas.runs import ToolOutput, ToolOutputs
from api_server.services.assistants.rules import read_kept
from api_server.services.runs.endings import ended_step
from api_server.services.runs.objects import run_object, step_object, to_json, wish_of
from api_server.services.runs.outside import Named, locked, written
from api_server.services.runs.queue import Begun, Queue, SubmittedError, new_job_id
from api_server.services.runs.reading import RunReader
from api_server.stores.postgres import Connection
from api_server.stores.run_changes import all_actions, all_steps, continue_run
from api_server.stores.run_rows import Action, Change, Run, Step
from api_server.stores.runs import RunStore

_OUTPUTS = msgspec.json.Decoder(ToolOutputs)


class Outputs:
    """One object for all requests."""

    def __init__(self, store: RunStore, reader: RunReader, queue: Queue) -> None:
        self._store = store
        self._reader = reader
        self._queue = queue

    async def submit(self, caller: Caller, thread_id: str, run_id: str, body: bytes) -> Begun:
        """Take the outputs of all calls that a run waits for; it goes on then.

        The same outputs may be sent again. Raises `InvalidRequestError` for others.
        """
        asked = read_kept(body, _OUTPUTS)
        run = await self._reader.find(caller, thread_id, run_id)
        if run.status != "requires_action":
            return await self._submitted_before(run, asked)
        try:
            return await self._queue.begin(
                caller, wish_of(run).model, lambda c: self._submit(c, caller, run, asked)
            )
        except SubmittedError:
            run = await self._reader.find(caller, thread_id, run_id)
            return await self._submitted_before(run, asked)

    # inside

    async def _submit(
        self, connection: Connection, caller: Caller, run: Run, asked: ToolOutputs
    ) -> Begun:
        now, at = await locked(connection, run.id)
        if now.status != "requires_action":
            raise SubmittedError
        actions = await all_actions(connection, now.id)
        pending = [each for each in actions if each.status == "pending" and not each.is_ours]
        outputs = check_outputs([each.tool_call_id for each in pending], asked.tool_outputs)
        answered = [
            replace(each, status="completed", output=outputs[each.tool_call_id], ended_at=at)
            for each in pending
        ]
        job_id = new_job_id()
        continued = await continue_run(connection, now.id, job_id, None)
        steps = [
            ended_step(_with_outputs(step, outputs), "completed", at)
            for step in await all_steps(connection, now.id)
            if step.status == "in_progress"
        ]
        events: list[Named] = [("thread.run.step.completed", step_object(step)) for step in steps]
        events.append(("thread.run.queued", run_object(continued)))
        change = Change(continued)
        kept = await written(connection, change, steps, answered, events)
        await self._queue.put(connection, caller, kept)
        return Begun(kept, now.last_event, change.events, bool(asked.stream))

    async def _submitted_before(self, run: Run, asked: ToolOutputs) -> Begun:
        """Two who submit the same at the same time: both have done it. Else a 400."""

        async def work(connection: Connection) -> list[Action]:
            return await all_actions(connection, run.id)

        actions = await self._store.transaction(work)
        known = {each.tool_call_id: each.output for each in actions if not each.is_ours}
        is_same = bool(asked.tool_outputs) and all(
            known.get(each.tool_call_id) == each.output for each in asked.tool_outputs
        )
        if not is_same or run.status not in ("queued", "in_progress"):
            raise InvalidRequestError(f'Runs in status "{run.status}" do not accept tool outputs.')
        return Begun(run, run.last_event, (), bool(asked.stream))


def check_outputs(call_ids: Sequence[str], outputs: Sequence[ToolOutput]) -> dict[str, str]:
    """The output of each call: all of them, and no others. Pure."""
    given = [each.tool_call_id for each in outputs]
    if sorted(given) != sorted(call_ids):
        raise InvalidRequestError(
            f"Expected tool outputs for call_ids {list(call_ids)}, got {given[:128]}.",
            param="tool_outputs",
        )
    return {each.tool_call_id: each.output for each in outputs}


def _with_outputs(step: Step, outputs: Mapping[str, str]) -> Step:
    details = msgspec.json.decode(step.details)
    for call in details.get("tool_calls", ()):
        if call["id"] in outputs:
            call["function"]["output"] = outputs[call["id"]]
    return replace(step, details=to_json(details))
