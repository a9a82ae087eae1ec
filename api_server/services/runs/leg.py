"""One leg of a run: from the queue until it ends, or waits for a client's outputs of tools."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    NotAllowedError,
)
from api_server.inference.shortening import TRIES, keep_newest, share_that_fits
from api_server.observability.metrics import RUN_ROUTE
from api_server.observability.record import RequestRecord, new_request_id
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import Function, ToolResources
from api_server.services.client import Client
from api_server.services.jobs.trouble import PutOff, outcome_of
from api_server.services.runs.context import MOST_MESSAGES, chat_body, chat_messages, within
from api_server.services.runs.endings import (
    CANCELLED,
    EXPIRED,
    Ending,
    close,
    ended_step,
    not_resumable,
    resumable,
)
from api_server.services.runs.hearing import Hearing, Piece
from api_server.services.runs.objects import run_object, step_object, to_json, wish_of
from api_server.services.runs.reply import Reply, with_usage
from api_server.services.runs.tools import Context, Result, Tools
from api_server.services.runs.writing import LostError, Pen, WantedCancelledError
from api_server.stores.run_rows import Action, Loaded, Spoken, Step
from api_server.stores.runs import RunStore

STOP_SECONDS = 3.0

log = logging.getLogger(__name__)

_RESOURCES = msgspec.json.Decoder(ToolResources)


class Chats(Protocol):
    """`services.completions.Completions`."""

    async def chat(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one chat."""


@dataclass(frozen=True)
class Bench:
    """What every leg works with. `ended` gets the record of each request to an engine."""

    store: RunStore
    chats: Chats
    tools: Tools
    ended: Callable[[RequestRecord], None]
    max_rounds: int


class StoppedError(Exception):
    """Somebody wants the run cancelled."""


class FailedError(Exception):
    """The run cannot go on: how it ends."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.status)
        self.ending = ending


class Leg:
    """Does a run under one fence. `cancel` may be called at any time."""

    def __init__(self, bench: Bench, loaded: Loaded, caller: Caller, *, is_revoked: bool) -> None:
        self.run_id = loaded.run.id
        self._bench = bench
        self._caller = caller
        self._is_revoked = is_revoked
        self._wish = wish_of(loaded.run)
        self._here = bench.tools.by_name(self._wish.tools)
        functions = (tool for tool in self._wish.tools if isinstance(tool, Function))
        self._functions = frozenset(tool.function.name for tool in functions)
        self._steps = list(loaded.steps)
        self._actions = list(loaded.actions)
        self._half_messages = loaded.half_messages
        self._heard = list(loaded.heard) if loaded.heard is not None else None
        self._thread_resources = _RESOURCES.decode(loaded.thread_resources or "{}")
        self._clock = (loaded.at, time.monotonic())
        self._reply: Reply | None = None
        self._pen: Pen
        self._inner: asyncio.Task[Any] | None = None
        self._is_cancelled = loaded.run.status == "cancelling"

    def cancel(self) -> None:
        """Somebody wants the run cancelled: the engine stops at once."""
        self._is_cancelled = True
        if self._inner is not None:
            self._inner.cancel()

    async def go(self, pen: Pen) -> None:
        """Until the end of the leg. Raises `ApiError` where it is to be tried again later."""
        self._pen = pen
        expires_at = pen.run.expires_at or self._now()
        try:
            async with asyncio.timeout((expires_at - self._now()).total_seconds()):
                await self._go()
        except TimeoutError:
            await self._end(EXPIRED)
        except (StoppedError, WantedCancelledError):
            cancelling = replace(pen.run, status="cancelling", required_action=None)
            pen.note(cancelling, events=[("thread.run.cancelling", run_object(cancelling))])
            await self._end(CANCELLED)
        except FailedError as exc:
            await self._end(exc.ending)
        except LostError:
            return
        except ApiError as exc:
            if not self._has_begun and isinstance(outcome_of(exc), PutOff):
                with contextlib.suppress(LostError):
                    await pen.flush()
                raise
            await self._end(self._failure(exc))
        except Exception:  # a defect of ours ends the run, not the worker
            log.exception("a run failed")
            await self._end(self._failure(InternalError("The server failed at this run.")))

    # inside

    async def _go(self) -> None:
        self._check_cancelled()
        self._tidy()
        pen = self._pen
        if pen.run.status == "queued":
            begun = replace(
                pen.run, status="in_progress", started_at=pen.run.started_at or self._now()
            )
            events = [("thread.run.in_progress", run_object(begun))]
            pen.note(begun, events=events, is_lazy=True)
        if self._is_revoked:
            raise NotAllowedError("The app was revoked before this run was done.")
        await self._call_tools()
        while not await self._round():
            self._check_cancelled()

    def _tidy(self) -> None:
        """End what whoever did this run before has left half done."""
        known = {action.step_id for action in self._actions}
        events: list[tuple[str, object]] = []
        broken = []
        for number, step in enumerate(self._steps):
            if step.status != "in_progress" or step.id in known:
                continue
            error = ("server_error", "Who did this step is gone; it is done again.")
            self._steps[number] = failed = ended_step(step, "failed", self._now(), error)
            broken.append(failed)
            events.append(("thread.run.step.failed", step_object(failed)))
        if broken or self._half_messages:
            self._pen.note(steps=broken, gone_messages=self._half_messages, events=events)

    async def _round(self) -> bool:
        """Ask the model once, and do what it asks for; whether the leg is over."""
        completed = [step for step in self._steps if step.status == "completed"]
        rounds = sum(step.type == "tool_calls" for step in completed)
        if rounds >= self._bench.max_rounds:
            most = self._bench.max_rounds
            why = f"The model called tools {most} times, the most here (assistants.max_rounds)."
            raise FailedError(Ending("failed", ("server_error", not_resumable(why))))
        reply, record = await self._ask(is_first=rounds == 0)
        prompt, completion = record.prompt_tokens or 0, record.completion_tokens or 0
        now, pen = self._now(), self._pen
        is_cut = reply.answer.finish_reason == "length"
        if is_cut:
            raise FailedError(Ending("incomplete", reason="max_completion_tokens"))
        steps: list[Step] = []
        messages: list[Spoken] = []
        events: list[tuple[str, object]] = []
        if reply.answer.text or not reply.answer.calls:
            message, told = reply.finish_message(
                now, self._citations(reply.answer.text), is_cut=False
            )
            assert reply.message_step is not None, "a message has a step"
            done = ended_step(reply.message_step, "completed", now)
            if not reply.answer.calls:
                done = with_usage(done, prompt, completion)
            messages.append(message)
            steps.append(done)
            events += [*told, ("thread.run.step.completed", step_object(done))]
        if not reply.answer.calls:
            closed = close(pen.run, Ending("completed"), now)
            self._forget(reply)
            self._steps += steps
            events += closed.events
            await pen.commit(closed.run, steps=steps, messages=messages, events=events)
            return True
        step, actions = reply.calls(now)
        step = with_usage(step, prompt, completion)
        self._forget(reply)
        self._steps += [*steps, step]
        self._actions += actions
        pen.note(steps=[*steps, step], messages=messages, actions=actions, events=events)
        return await self._call_tools()

    async def _ask(self, *, is_first: bool) -> tuple[Reply, RequestRecord]:
        """The model's answer, whole. Raises what keeps it from coming."""
        messages = await self._messages()
        most = self._answer_room()
        for tries in range(1, TRIES + 2):
            body = chat_body(
                self._wish, messages, self._bench.tools, is_first=is_first, most_tokens=most
            )
            try:
                return await self._ask_once(body)
            except ContextLengthError as exc:
                if (
                    tries > TRIES
                    or self._has_begun
                    or self._wish.truncation_strategy.type != "auto"
                ):
                    raise
                raws = [msgspec.Raw(msgspec.json.encode(each)) for each in messages]
                kept = keep_newest(raws, share_that_fits(exc, most, tries))
                if len(kept) == len(raws):
                    raise
                messages = [msgspec.json.decode(each) for each in kept]
        raise AssertionError("the last try returns or raises")

    async def _ask_once(self, body: bytes) -> tuple[Reply, RequestRecord]:
        self._reply = reply = Reply(self._pen, self._here, self._functions)
        record = self._record()

        async def told(piece: Piece) -> None:
            reply.hear(piece, self._now())
            await self._pen.keep_pace()

        client = Hearing(self._caller, reply.answer, told)
        try:
            await self._until_cancelled(self._bench.chats.chat(body, client, record))
            record.status = 200
        except ApiError as exc:
            record.status = exc.status
            record.fail("error", exc.code, exc.message, exc.log_level)
            raise
        except (asyncio.CancelledError, StoppedError):
            record.status = 200 if client.has_begun else 499
            record.fail("client_left", "cancelled", "the run was stopped", logging.INFO)
            raise
        finally:
            self._bench.ended(record)  # first: what a run says it used is in the ledger
            self._count(record)
        if client.error is not None:
            code, message = client.error
            raise FailedError(
                Ending(
                    "failed",
                    (
                        "rate_limit_exceeded" if code == "rate_limit_exceeded" else "server_error",
                        resumable(self._pen.run, message),
                    ),
                    can_resume=True,
                )
            )
        return reply, record

    async def _messages(self) -> list[dict[str, Any]]:
        """What the model is shown, within the limits of the run."""
        last = self._wish.truncation_strategy.last_messages
        is_bounded = self._wish.truncation_strategy.type == "last_messages" and last is not None
        most = last if is_bounded and last is not None else MOST_MESSAGES
        own = sum(step.type == "message_creation" for step in self._steps)
        run = self._pen.run
        heard, self._heard = self._heard, None
        if heard is None:
            if own:
                await self._pen.flush()  # its own messages are read as rows too
            heard = await self._bench.store.conversation(run, most + own)
        others = [each for each in heard if each.run_id != run.id]
        for each in others[: max(0, len(others) - most)]:
            heard.remove(each)
        messages = chat_messages(self._wish.instructions, heard, run.id, self._steps, self._actions)
        if not any(each["role"] != "system" for each in messages):
            raise InvalidRequestError("The thread has no message that a model could answer.")
        if self._wish.max_prompt_tokens is not None:
            left = self._wish.max_prompt_tokens - run.prompt_tokens
            fitting = within(messages, left) if left > 0 else None
            if fitting is None:
                raise FailedError(Ending("incomplete", reason="max_prompt_tokens"))
            return fitting
        return messages

    def _answer_room(self) -> int | None:
        bounds = []
        if self._wish.max_completion_tokens is not None:
            left = self._wish.max_completion_tokens - self._pen.run.completion_tokens
            if left <= 0:
                raise FailedError(Ending("incomplete", reason="max_completion_tokens"))
            bounds.append(left)
            if self._caller.app.policy.max_tokens is not None:
                bounds.append(self._caller.app.policy.max_tokens)
        return min(bounds, default=None)

    async def _call_tools(self) -> bool:
        """Do what is to be done here of the calls that are open; whether a client must go on."""
        step = next((each for each in self._steps if each.status == "in_progress"), None)
        if step is None:
            return False
        calls = [each for each in self._actions if each.step_id == step.id]
        ours = [each for each in calls if each.is_ours and each.status == "pending"]
        if ours:
            await self._pen.flush()  # from here on it is known that these are called
        if self._wish.parallel_tool_calls:
            await self._until_cancelled(_all(self._call(step.id, each) for each in ours))
        else:
            for each in ours:
                await self._until_cancelled(self._call(step.id, each))
        theirs = [each for each in calls if not each.is_ours and each.status == "pending"]
        number = self._number_of(step.id)
        step, now, pen = self._steps[number], self._now(), self._pen
        if not theirs:
            done = ended_step(step, "completed", now)
            self._steps[number] = done
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

    async def _call(self, step_id: str, action: Action) -> None:
        """Do one call, and write down what came of it."""
        found = self._here.get(action.name)
        if found is None:
            result, status = Result(f"There is no function {action.name!r}."), "failed"
        else:
            server_tool, tool = found
            context = Context(
                caller=self._caller,
                thread_id=self._pen.run.thread_id,
                run_id=self.run_id,
                tool=tool,
                resources=self._wish.tool_resources,
                thread_resources=self._thread_resources,
            )
            result, status = await _outcome(server_tool.call(context, action.arguments), action)
        output = result.output.replace("\0", "")
        done = replace(action, status=status, output=output, ended_at=self._now())  # type: ignore[arg-type]
        self._actions[self._actions.index(action)] = done
        number = self._number_of(step_id)
        details = msgspec.json.decode(self._steps[number].details)
        for call in details["tool_calls"]:
            if call["id"] == action.tool_call_id:
                if call["type"] == "function":
                    call["function"]["output"] = output
                else:
                    call[call["type"]] = result.details
        self._steps[number] = step = replace(self._steps[number], details=to_json(details))
        self._pen.note(steps=[step], actions=[done])
        await self._pen.flush()

    def _citations(self, text: str) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = []
        for server_tool in {id(tool): tool for tool, _ in self._here.values()}.values():
            if server_tool.type == "function":
                continue
            shown = [
                call[server_tool.type]
                for step in self._steps
                if step.type == "tool_calls"
                for call in msgspec.json.decode(step.details)["tool_calls"]
                if call["type"] == server_tool.type
            ]
            if shown:
                annotations += server_tool.cite(text, shown)
        return annotations

    async def _until_cancelled(self, work: Coroutine[Any, Any, Any]) -> None:
        """Raises `StoppedError` as soon as somebody wants the run cancelled."""
        if self._is_cancelled:
            work.close()
            raise StoppedError
        inner = self._inner = asyncio.create_task(work)
        try:
            await asyncio.wait({inner})
        except asyncio.CancelledError:
            inner.cancel()
            await asyncio.wait({inner}, timeout=STOP_SECONDS)
            raise
        finally:
            self._inner = None
        if inner.cancelled():
            raise StoppedError
        inner.result()

    def _check_cancelled(self) -> None:
        if self._is_cancelled:
            raise StoppedError

    async def _end(self, ending: Ending) -> None:
        """End the run, and what is open in it."""
        pen, reply = self._pen, self._reply
        open_steps = [*self._steps, *(reply.steps if reply is not None else [])]
        try:
            closed = close(
                pen.run,
                ending,
                self._now(),
                steps=[self._with_calls(step) for step in open_steps],
                messages=reply.half_messages if reply is not None else [],
                actions=self._actions,
            )
            await pen.commit(
                closed.run,
                steps=closed.steps,
                messages=closed.messages,
                actions=closed.actions,
                events=closed.events,
            )
        except LostError:
            return

    def _with_calls(self, step: Step) -> Step:
        """A step whose answer broke off shows the calls as far as they came."""
        reply = self._reply
        if reply is None or step is not reply.calls_step or not reply.answer.calls:
            return step
        shown = [
            reply.shown(call_id, call["function"]["name"], call["function"]["arguments"])
            for call_id, call in zip(reply.call_ids, reply.answer.calls, strict=True)
        ]
        return replace(step, details=to_json({"type": "tool_calls", "tool_calls": shown}))

    def _failure(self, error: ApiError) -> Ending:
        unfit = InvalidRequestError | ModelNotFoundError | NotAllowedError
        if isinstance(error, unfit):
            return Ending("failed", ("invalid_prompt", not_resumable(error.message)))
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        told = resumable(self._pen.run, error.message)
        return Ending("failed", (code, told), can_resume=True)  # type: ignore[arg-type]

    def _count(self, record: RequestRecord) -> None:
        """What the request used, in the run and in the step that it made."""
        prompt, completion = record.prompt_tokens or 0, record.completion_tokens or 0
        run, reply = self._pen.run, self._reply
        self._pen.run = replace(
            run,
            prompt_tokens=run.prompt_tokens + prompt,
            completion_tokens=run.completion_tokens + completion,
        )
        if reply is None:
            return
        if reply.message_step is not None and reply.calls_step is None:
            reply.message_step = with_usage(reply.message_step, prompt, completion)
        if reply.calls_step is not None:
            reply.calls_step = with_usage(reply.calls_step, prompt, completion)

    def _record(self) -> RequestRecord:
        record = RequestRecord(new_request_id(), "POST", RUN_ROUTE, route=RUN_ROUTE)
        app = self._caller.app
        record.app_id, record.app, record.user = app.id, app.name, self._caller.user
        return record

    def _forget(self, reply: Reply) -> None:
        """It is whole: its rows are the run's now."""
        if self._reply is reply:
            self._reply = None

    @property
    def _has_begun(self) -> bool:
        return self._reply is not None and self._reply.has_begun

    def _number_of(self, step_id: str) -> int:
        return next(n for n, step in enumerate(self._steps) if step.id == step_id)

    def _now(self) -> datetime:
        """PostgreSQL's clock, and never ahead of it."""
        at, then = self._clock
        return at + timedelta(seconds=time.monotonic() - then)


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
