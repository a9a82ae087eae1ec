"""Runs as clients begin and stop them: created, cancelled, begun again."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from api_server.errors import InvalidRequestError, NotFoundError
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import KeptAssistant
from api_server.schemas.ids import new_id
from api_server.schemas.runs import AnyRunBody, RunBody, ThreadAndRunBody, Wish
from api_server.schemas.threads import ThreadBody
from api_server.services.assistants.objects import thread_object
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.rules import (
    check_id,
    check_messages,
    check_text_model,
    read_kept,
)
from api_server.services.assistants.threads import ThreadService
from api_server.services.runs.endings import CANCELLED, Ended, tell_ended
from api_server.services.runs.objects import FINAL, Json, run_object, to_json, wish_of
from api_server.services.runs.outside import GAP, Named, end_run, locked, written
from api_server.services.runs.queue import Begun, Queue, new_job_id
from api_server.services.runs.reading import RunReader
from api_server.services.runs.wishes import wish_from
from api_server.stores.postgres import Connection
from api_server.stores.run_changes import (
    TakenError,
    continue_run,
    end_job,
    half_messages,
    hurry,
    lock_job,
    tell_cancel,
    write,
)
from api_server.stores.run_rows import Change, Event, Run
from api_server.stores.runs import RunStore
from api_server.stores.threads import active_run

MORE = "additional_messages"

_RUN = msgspec.json.Decoder(RunBody)
_THREAD_AND_RUN = msgspec.json.Decoder(ThreadAndRunBody)
_KEPT = msgspec.json.Decoder(KeptAssistant)


class RunService:
    """One object for all requests."""

    def __init__(
        self,
        store: RunStore,
        queue: Queue,
        reader: RunReader,
        threads: ThreadService,
        resources: Resources,
        catalogue: Catalogue,
        *,
        run_seconds: float,
        ended: Ended,
    ) -> None:
        self._store = store
        self._queue = queue
        self._reader = reader
        self._threads = threads
        self._resources = resources
        self._catalogue = catalogue
        self._run_seconds = run_seconds
        self._ended = ended

    async def create(self, caller: Caller, thread_id: str, body: bytes) -> Begun:
        """A run of a thread. Raises `InvalidRequestError` where the thread has an active one."""
        asked = read_kept(body, _RUN)
        check_id("thread", thread_id)
        check_messages(asked.additional_messages or (), MORE)
        wish, metadata, at = await self._wish(caller, asked)
        more = asked.additional_messages

        async def work(connection: Connection) -> Begun:
            if more:
                thread = await self._threads.lock(connection, caller, thread_id)
                active = await active_run(connection, thread.app_id, thread.id)
                if active is not None:
                    raise _busy(thread.id, active)
                await self._threads.add_in(connection, caller, thread, more, MORE)
            return await self._add(connection, caller, thread_id, asked, wish, metadata, at, [])

        try:
            return await self._queue.begin(caller, wish.model, work, is_one_statement=not more)
        except TakenError as exc:
            raise await self._taken(caller, thread_id) from exc

    async def create_with_thread(self, caller: Caller, body: bytes) -> Begun:
        """A thread and its first run, both or neither."""
        asked = read_kept(body, _THREAD_AND_RUN)
        wish, metadata, at = await self._wish(caller, asked)

        async def work(connection: Connection) -> Begun:
            settled = wish
            if asked.tool_resources is not None:
                resources = await self._resources.settle(connection, caller, asked.tool_resources)
                settled = msgspec.structs.replace(wish, tool_resources=resources)
            body = asked.thread or ThreadBody()
            thread = await self._threads.create_in(connection, caller, body, "thread.messages")
            made: Named = ("thread.created", thread_object(thread))
            return await self._add(
                *(connection, caller, thread.id, asked, settled, metadata, at, [made])
            )

        return await self._queue.begin(caller, wish.model, work)

    async def cancel(self, caller: Caller, thread_id: str, run_id: str) -> Json:
        """At once where nobody does the run; else whoever does it is told."""
        run = await self._reader.find(caller, thread_id, run_id)

        async def work(connection: Connection) -> Run:
            job_id = run.job_id
            job_state = await lock_job(connection, job_id)
            now, at = await locked(connection, run.id)
            if now.status in FINAL:
                raise InvalidRequestError(f"Cannot cancel run with status '{now.status}'.")
            if now.status == "cancelling":
                return now
            if now.job_id != job_id:  # a new leg began meanwhile
                raise InvalidRequestError("The run has just gone on; cancel it again.")
            if now.status != "requires_action" and job_state == "processing":
                cancelling = replace(now, status="cancelling")
                await write(connection, [Change(cancelling)])
                await hurry(connection, job_id)
                await tell_cancel(connection, job_id)
                return cancelling
            await end_job(connection, job_id, "The run was cancelled.")
            gap = GAP if now.status == "in_progress" else 0  # whoever did it may have shown more
            return await end_run(connection, now, CANCELLED, at, gap=gap)

        stopped = await self._store.transaction(work)
        if stopped.status == "cancelled":
            tell_ended(self._ended, stopped)
        return run_object(stopped)

    async def resume(self, caller: Caller, thread_id: str, run_id: str) -> Begun:
        """Begin a run again that failed or took too long; what was completed stays."""
        run = await self._reader.find(caller, thread_id, run_id)

        async def work(connection: Connection) -> Begun:
            now, _ = await locked(connection, run.id)
            if not now.can_resume:
                raise InvalidRequestError(
                    f"A run with status '{now.status}' cannot be resumed"
                    + (": its error says why." if now.status == "failed" else ".")
                )
            job_id = new_job_id()
            continued = await continue_run(connection, now.id, job_id, self._run_seconds)
            change = Change(continued, gone_messages=set(await half_messages(connection, now.id)))
            queued: Named = ("thread.run.queued", run_object(continued))
            kept = await written(connection, change, [], [], [queued])
            await self._queue.put(connection, caller, kept)
            return Begun(kept, now.last_event, change.events, wants_stream=False)

        try:
            return await self._queue.begin(caller, wish_of(run).model, work)
        except TakenError as exc:
            raise await self._taken(caller, thread_id) from exc

    # inside

    async def _wish(self, caller: Caller, asked: AnyRunBody) -> tuple[Wish, str, datetime]:
        """What the run is asked for, with what the assistant says where the request does not; its
        metadata; the time.
        """
        check_id("assistant", asked.assistant_id)
        found = await self._store.assistant(caller.app.id, asked.assistant_id)
        if found is None:
            raise NotFoundError.of("assistant", asked.assistant_id, "assistant_id")
        kept, at = found
        wish = wish_from(_KEPT.decode(kept), asked)
        model = check_text_model(self._catalogue, caller, wish.model)
        return msgspec.structs.replace(wish, model=model), to_json(asked.metadata or {}), at

    async def _add(
        self,
        connection: Connection,
        caller: Caller,
        thread_id: str,
        asked: AnyRunBody,
        wish: Wish,
        metadata: str,
        at: datetime,
        before: Sequence[Named],
    ) -> Begun:
        run = Run(
            *(new_id("run"), thread_id, caller.app.id, caller.user, asked.assistant_id, at),
            *("queued", to_json(wish), metadata, new_job_id()),
            expires_at=at + timedelta(seconds=self._run_seconds),
        )
        shown = run_object(run)
        told = [*before, ("thread.run.created", shown), ("thread.run.queued", shown)]
        events = [
            Event(number, name, to_json(content)) for number, (name, content) in enumerate(told, 1)
        ]
        added = await self._queue.add(connection, caller, run, events, wish.model)
        return Begun(added, 0, events, bool(asked.stream))

    async def _taken(self, caller: Caller, thread_id: str) -> InvalidRequestError:
        """What the reference says to whoever comes second."""

        async def work(connection: Connection) -> str | None:
            return await active_run(connection, caller.app.id, thread_id)

        run_id = await self._store.transaction(work)
        if run_id is None:
            return InvalidRequestError(
                f"Thread {thread_id} had an active run a moment ago; send it again."
            )
        return _busy(thread_id, run_id)


def _busy(thread_id: str, run_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"Thread {thread_id} already has an active run {run_id}.")
