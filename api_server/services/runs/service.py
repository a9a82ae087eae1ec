"""Runs as clients meet them: created, read, cancelled, given outputs of tools, begun again."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
from msgspec import UNSET

from api_server.errors import ApiError, InvalidRequestError, NotFoundError
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import FileSearch, Function, KeptAssistant
from api_server.schemas.ids import new_id
from api_server.schemas.paging import Page, list_answer
from api_server.schemas.runs import (
    ChosenCode,
    ChosenFunction,
    ChosenSearch,
    RunBody,
    RunChange,
    ThreadAndRunBody,
    ToolOutput,
    ToolOutputs,
    Truncation,
    Wish,
)
from api_server.services.assistants.objects import thread_object
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.rules import (
    NO_SANDBOX,
    check_id,
    check_messages,
    check_text_model,
    check_tools,
    read_kept,
)
from api_server.services.assistants.threads import ThreadService
from api_server.services.jobs.rules import Rules
from api_server.services.jobs.waiting import step_of
from api_server.services.quotas.reservation import Reservation
from api_server.services.runs.doing import chat_of
from api_server.services.runs.endings import CANCELLED, ended_step
from api_server.services.runs.objects import (
    FINAL,
    Json,
    run_object,
    step_object,
    to_json,
    wish_of,
)
from api_server.services.runs.outside import GAP, Named, end_run, locked, written
from api_server.stores.jobs import JobStore, NewJob
from api_server.stores.postgres import Connection
from api_server.stores.run_rows import Action, Change, Event, Run, Step
from api_server.stores.runs import (
    RunStore,
    TakenError,
    add_run,
    all_actions,
    all_steps,
    continue_run,
    end_job,
    half_messages,
    hurry,
    lock_job,
    put,
    tell_cancel,
)
from api_server.stores.threads import Thread, active_run

Admit = Callable[[Caller, Mapping[str, int]], Awaitable[Sequence[Reservation]]]
"""Counts requests against an app's limits (`services.jobs.service.Admit`)."""

NO_STRATEGY = Truncation()

_RUN = msgspec.json.Decoder(RunBody)
_THREAD_AND_RUN = msgspec.json.Decoder(ThreadAndRunBody)
_CHANGE = msgspec.json.Decoder(RunChange)
_OUTPUTS = msgspec.json.Decoder(ToolOutputs)
_KEPT = msgspec.json.Decoder(KeptAssistant)


@dataclass(frozen=True, slots=True)
class Begun:
    """A leg that was put into the queue. `after` is the event before its stream, `events` are the
    first of it; `wants_stream` where the client asked for that.
    """

    run: Run
    after: int
    events: Sequence[Event]
    wants_stream: bool


class RunService:
    """One object for all requests. `begun` is told of each leg that waits for a worker."""

    def __init__(
        self,
        store: RunStore,
        jobs: JobStore,
        threads: ThreadService,
        resources: Resources,
        catalogue: Catalogue,
        rules: Rules,
        admit: Admit,
        *,
        run_seconds: float,
        begun: Callable[[], None],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._threads = threads
        self._resources = resources
        self._catalogue = catalogue
        self._rules = rules
        self._admit = admit
        self._run_seconds = run_seconds
        self._begun = begun

    async def create(self, caller: Caller, thread_id: str, body: bytes) -> Begun:
        """A run of a thread. Raises `InvalidRequestError` where the thread has an active one."""
        asked = read_kept(body, _RUN)
        check_id("thread", thread_id)
        check_messages(asked.additional_messages or ())
        wish, metadata, at = await self._wish(caller, asked)

        async def work(connection: Connection) -> Begun:
            thread = await self._threads.lock(connection, caller, thread_id)
            if asked.additional_messages:
                active = await active_run(connection, thread.app_id, thread.id)
                if active is not None:
                    raise _busy(thread.id, active)
                await self._threads.add_in(connection, caller, thread, asked.additional_messages)
            return await self._add(connection, caller, thread, asked, wish, metadata, at, [])

        try:
            return await self._counted(caller, wish.model, work)
        except TakenError as exc:
            raise await self._taken(caller, thread_id) from exc

    async def create_with_thread(self, caller: Caller, body: bytes) -> Begun:
        """A thread and its first run, both or neither."""
        asked = read_kept(body, _THREAD_AND_RUN)
        wish, metadata, at = await self._wish(caller, asked)

        async def work(connection: Connection) -> Begun:
            if asked.thread is None:
                raise InvalidRequestError("thread is required.", param="thread")
            settled = wish
            if asked.tool_resources is not None:
                resources = await self._resources.settle(connection, caller, asked.tool_resources)
                settled = msgspec.structs.replace(wish, tool_resources=resources)
            thread = await self._threads.create_in(connection, caller, asked.thread)
            made: Named = ("thread.created", thread_object(thread))
            return await self._add(connection, caller, thread, asked, settled, metadata, at, [made])

        return await self._counted(caller, wish.model, work)

    async def retrieve(self, caller: Caller, thread_id: str, run_id: str) -> Json:
        return run_object(await self.find(caller, thread_id, run_id))

    async def find(self, caller: Caller, thread_id: str, run_id: str) -> Run:
        """Raises `NotFoundError`."""
        check_id("thread", thread_id)
        check_id("run", run_id)
        run = await self._store.find(caller.app.id, caller.user, thread_id, run_id)
        if run is None:
            raise NotFoundError.of("run", run_id)
        return run

    async def listed(self, caller: Caller, thread_id: str, page: Page) -> Json:
        check_id("thread", thread_id)
        if not await self._store.sees_thread(caller.app.id, caller.user, thread_id):
            raise NotFoundError.of("thread", thread_id)
        runs, has_more = await self._store.listed(caller.app.id, thread_id, page)
        return list_answer([run_object(run) for run in runs], has_more=has_more)

    async def modify(self, caller: Caller, thread_id: str, run_id: str, body: bytes) -> Json:
        asked = read_kept(body, _CHANGE)
        await self.find(caller, thread_id, run_id)
        if asked.metadata is not UNSET:
            metadata = to_json(asked.metadata or {})
            ids = (caller.app.id, caller.user, thread_id, run_id)
            if not await self._store.modify(*ids, metadata):
                raise NotFoundError.of("run", run_id)
        return await self.retrieve(caller, thread_id, run_id)

    async def steps(
        self, caller: Caller, thread_id: str, run_id: str, page: Page, *, with_results: bool
    ) -> Json:
        run = await self.find(caller, thread_id, run_id)
        steps, has_more = await self._store.steps(run.app_id, run.id, page)
        shown = [step_object(step, with_results=with_results) for step in steps]
        return list_answer(shown, has_more=has_more)

    async def step(
        self, caller: Caller, thread_id: str, run_id: str, step_id: str, *, with_results: bool
    ) -> Json:
        run = await self.find(caller, thread_id, run_id)
        check_id("run step", step_id)
        step = await self._store.step(run.app_id, run.id, step_id)
        if step is None:
            raise NotFoundError.of("run step", step_id)
        return step_object(step, with_results=with_results)

    async def cancel(self, caller: Caller, thread_id: str, run_id: str) -> Json:
        """At once where nobody does the run; else whoever does it is told."""
        run = await self.find(caller, thread_id, run_id)

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
                await put(connection, Change(cancelling))
                await hurry(connection, job_id)
                await tell_cancel(connection, job_id)
                return cancelling
            await end_job(connection, job_id, "The run was cancelled.")
            gap = GAP if now.status == "in_progress" else 0  # whoever did it may have shown more
            return await end_run(connection, now, CANCELLED, at, gap=gap)

        return run_object(await self._store.transaction(work))

    async def submit(self, caller: Caller, thread_id: str, run_id: str, body: bytes) -> Begun:
        """Take the outputs of all calls that a run waits for; it goes on then.

        The same outputs may be sent again. Raises `InvalidRequestError` for others.
        """
        asked = read_kept(body, _OUTPUTS)
        run = await self.find(caller, thread_id, run_id)
        if run.status != "requires_action":
            return await self._submitted_before(run, asked)
        try:
            return await self._counted(
                caller, wish_of(run).model, lambda c: self._submit(c, caller, run, asked)
            )
        except _SubmittedError:
            run = await self.find(caller, thread_id, run_id)
            return await self._submitted_before(run, asked)

    async def resume(self, caller: Caller, thread_id: str, run_id: str) -> Begun:
        """Begin a run again that failed or took too long; what was completed stays."""
        run = await self.find(caller, thread_id, run_id)

        async def work(connection: Connection) -> Begun:
            now, _ = await locked(connection, run.id)
            if not now.can_resume:
                raise InvalidRequestError(
                    f"A run with status '{now.status}' cannot be resumed"
                    + (": its error says why." if now.status == "failed" else ".")
                )
            job_id = _new_job_id()
            continued = await continue_run(connection, now.id, job_id, self._run_seconds)
            change = Change(continued, gone_messages=set(await half_messages(connection, now.id)))
            queued: Named = ("thread.run.queued", run_object(continued))
            kept = await written(connection, change, [], [], [queued])
            await self._enqueue(connection, caller, kept, job_id)
            return Begun(kept, now.last_event, change.events, wants_stream=False)

        try:
            return await self._counted(caller, wish_of(run).model, work)
        except TakenError as exc:
            raise await self._taken(caller, thread_id) from exc

    # inside

    async def _wish(self, caller: Caller, asked: RunBody) -> tuple[Wish, str, datetime]:
        """What the run is asked for, with what the assistant says where the request does not; its
        metadata; the time.
        """
        check_id("assistant", asked.assistant_id)
        found = await self._store.assistant(caller.app.id, asked.assistant_id)
        if found is None:
            raise NotFoundError.of("assistant", asked.assistant_id)
        kept, at = found
        wish = wish_from(_KEPT.decode(kept), asked)
        model = check_text_model(self._catalogue, caller, wish.model)
        return msgspec.structs.replace(wish, model=model), to_json(asked.metadata or {}), at

    async def _add(
        self,
        connection: Connection,
        caller: Caller,
        thread: Thread,
        asked: RunBody,
        wish: Wish,
        metadata: str,
        at: datetime,
        before: Sequence[Named],
    ) -> Begun:
        until = at + timedelta(seconds=self._run_seconds)
        run = new_run(thread, asked.assistant_id, wish, metadata, _new_job_id(), at, until)
        shown = run_object(run)
        told = [*before, ("thread.run.created", shown), ("thread.run.queued", shown)]
        events = [
            Event(number, name, to_json(content)) for number, (name, content) in enumerate(told, 1)
        ]
        await add_run(connection, run, events)
        await self._enqueue(connection, caller, run, run.job_id)
        return Begun(run, 0, events, bool(asked.stream))

    async def _submit(
        self, connection: Connection, caller: Caller, run: Run, asked: ToolOutputs
    ) -> Begun:
        now, at = await locked(connection, run.id)
        if now.status != "requires_action":
            raise _SubmittedError
        actions = await all_actions(connection, now.id)
        pending = [each for each in actions if each.status == "pending" and not each.is_ours]
        outputs = check_outputs([each.tool_call_id for each in pending], asked.tool_outputs)
        answered = [
            replace(each, status="completed", output=outputs[each.tool_call_id], ended_at=at)
            for each in pending
        ]
        job_id = _new_job_id()
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
        await self._enqueue(connection, caller, kept, job_id)
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

    async def _counted(
        self, caller: Caller, model: str, work: Callable[[Connection], Awaitable[Begun]]
    ) -> Begun:
        """Begin a leg that counts as one request of the app."""
        async with self._admitted(caller, model):
            begun = await self._store.transaction(work)
        self._begun()
        return begun

    @asynccontextmanager
    async def _admitted(self, caller: Caller, model: str) -> AsyncIterator[None]:
        reservations = await self._admit(caller, {model: 1})
        try:
            yield
        except (ApiError, TakenError, _SubmittedError):
            for each in reservations:
                each.cancel()
            raise
        for each in reservations:
            each.release()

    async def _enqueue(self, connection: Connection, caller: Caller, run: Run, job_id: str) -> None:
        policy = caller.app.policy
        job = NewJob(
            id=job_id,
            app_id=run.app_id,
            user=run.user_name,
            request_type="run",
            chat=chat_of(run.id),
            model=wish_of(run).model,
            priority=policy.priority,
            step=step_of(policy.weight, policy.priority),
            digest=b"",
        )
        seconds = self._rules.timeout_seconds
        await self._jobs.enqueue(connection, [job], timeout_seconds=seconds)

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


class _SubmittedError(Exception):
    """Somebody else was faster."""


def wish_from(kept: KeptAssistant, asked: RunBody) -> Wish:
    """What a run is asked for. Pure. Raises `InvalidRequestError` for what is not served."""
    check_tools(asked.tools)
    tools = kept.tools if asked.tools is None else asked.tools
    strategy = asked.truncation_strategy or NO_STRATEGY
    if strategy.type == "last_messages" and strategy.last_messages is None:
        param = "truncation_strategy.last_messages"
        raise InvalidRequestError(f"{param} is required for type last_messages.", param=param)
    _check_choice(asked, tools)
    instructions = kept.instructions if asked.instructions is None else asked.instructions
    parts = [part for part in (instructions, asked.additional_instructions) if part]
    return Wish(
        model=asked.model or kept.model,
        instructions="\n".join(parts),
        tools=list(tools),
        temperature=_given(asked.temperature, kept.temperature),
        top_p=_given(asked.top_p, kept.top_p),
        max_prompt_tokens=asked.max_prompt_tokens,
        max_completion_tokens=asked.max_completion_tokens,
        truncation_strategy=strategy,
        tool_choice=asked.tool_choice or "auto",
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        response_format=asked.response_format or kept.response_format,
        reasoning_effort=asked.reasoning_effort or kept.reasoning_effort,
        tool_resources=kept.tool_resources,
    )


def new_run(
    thread: Thread,
    assistant_id: str,
    wish: Wish,
    metadata: str,
    job_id: str,
    at: datetime,
    until: datetime,
) -> Run:
    """A run that waits for its turn. Pure, but for its id."""
    return Run(
        id=new_id("run"),
        thread_id=thread.id,
        app_id=thread.app_id,
        user_name=thread.user,
        assistant_id=assistant_id,
        created_at=at,
        status="queued",
        body=to_json(wish),
        metadata=metadata,
        job_id=job_id,
        expires_at=until,
    )


def check_outputs(call_ids: Sequence[str], outputs: Sequence[ToolOutput]) -> dict[str, str]:
    """The output of each call: all of them, and no others. Pure."""
    given = [each.tool_call_id for each in outputs]
    if sorted(given) != sorted(call_ids):
        raise InvalidRequestError(
            f"Expected tool outputs for call_ids {list(call_ids)}, got {given[:128]}.",
            param="tool_outputs",
        )
    return {each.tool_call_id: each.output for each in outputs}


def _check_choice(asked: RunBody, tools: Sequence[object]) -> None:
    choice, names = asked.tool_choice, None
    if choice is None or choice in ("none", "auto"):
        return
    if isinstance(choice, ChosenCode):
        raise InvalidRequestError(NO_SANDBOX, param="tool_choice")
    if isinstance(choice, ChosenFunction):
        names = {tool.function.name for tool in tools if isinstance(tool, Function)}
        is_there = choice.function.name in names
    elif isinstance(choice, ChosenSearch):
        is_there = any(isinstance(tool, FileSearch) for tool in tools)
    else:
        is_there = bool(tools)
    if not is_there:
        raise InvalidRequestError(
            "tool_choice: asks for a tool that is not among the tools of this run.",
            param="tool_choice",
        )


def _given(asked: float | None, kept: float) -> float:
    return kept if asked is None else asked


def _with_outputs(step: Step, outputs: Mapping[str, str]) -> Step:
    details = msgspec.json.decode(step.details)
    for call in details.get("tool_calls", ()):
        if call["id"] in outputs:
            call["function"]["output"] = outputs[call["id"]]
    return replace(step, details=to_json(details))


def _new_job_id() -> str:
    return f"job_{secrets.token_urlsafe(24)}"
