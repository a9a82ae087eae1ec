"""Changes of runs that nobody does at the moment, within transactions that have locked them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from api_server.errors import NotFoundError
from api_server.services.runs.endings import Ending, close
from api_server.services.runs.objects import to_json
from api_server.stores.postgres import Connection
from api_server.stores.run_changes import (
    active_jobs,
    all_actions,
    all_steps,
    end_job,
    half_messages,
    lock_run,
    write,
)
from api_server.stores.run_rows import Action, Change, Event, Run, Step

GAP = 100_000
"""Between the numbers of two who do a run: the first may have shown what it could not write."""

Named = tuple[str, object]


async def stop_runs(connection: Connection, thread_id: str) -> None:
    """The work of a thread that is being deleted (`services.assistants.seams.StopRuns`)."""
    for job_id in await active_jobs(connection, thread_id):
        await end_job(connection, job_id, "The thread was deleted.")


async def locked(connection: Connection, run_id: str) -> tuple[Run, datetime]:
    """A run as it is, ours until the transaction ends, and the time. Raises `NotFoundError`."""
    found = await lock_run(connection, run_id)
    if found is None:
        raise NotFoundError.of("run", run_id)
    return found


async def written(
    connection: Connection,
    change: Change,
    steps: Sequence[Step],
    actions: Sequence[Action],
    events: Sequence[Named],
    *,
    gap: int = 0,
) -> Run:
    """Write it with its events, numbered behind those that are there; `change` has them then."""
    first = change.run.last_event + gap + 1
    change.events = [
        Event(first + number, name, to_json(content))
        for number, (name, content) in enumerate(events)
    ]
    change.run = replace(change.run, last_event=first + len(events) - 1)
    change.steps = {each.id: each for each in steps}
    change.actions = {each.id: each for each in actions}
    await write(connection, [change])
    return change.run


async def end_run(
    connection: Connection, run: Run, ending: Ending, at: datetime, *, gap: int = 0
) -> Run:
    """End a run with all that is open in it. Half a message goes: its text is nowhere."""
    closed = close(
        run,
        ending,
        at,
        steps=await all_steps(connection, run.id),
        actions=await all_actions(connection, run.id),
    )
    gone = set(await half_messages(connection, run.id))
    change = Change(closed.run, gone_messages=gone)
    return await written(connection, change, closed.steps, closed.actions, closed.events, gap=gap)
