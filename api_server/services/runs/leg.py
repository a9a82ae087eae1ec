"""One leg of a run: from the queue until it ends, or waits for a client's outputs of tools."""

import asyncio
import contextlib
import logging
from dataclasses import replace

from api_server.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    NotAllowedError,
)
from api_server.schemas.apps import Caller
from api_server.services.jobs.trouble import PutOff, outcome_of
from api_server.services.runs.asking import Asking
from api_server.services.runs.calling import Calling
from api_server.services.runs.endings import (
    CANCELLED,
    EXPIRED,
    Ending,
    close,
    ended_step,
    not_resumable,
    resumable,
    tell_ended,
)
from api_server.services.runs.objects import run_object, step_object, to_json
from api_server.services.runs.reply import with_usage
from api_server.services.runs.stopping import FailedError, Stop, StoppedError
from api_server.services.runs.under_way import Bench, UnderWay
from api_server.services.runs.writing import LostError, Pen, WantedCancelledError
from api_server.stores.run_rows import Loaded, Spoken, Step

log = logging.getLogger(__name__)


class Leg:
    """Does a run under one fence. `cancel` may be called at any time."""

    def __init__(self, bench: Bench, loaded: Loaded, caller: Caller, *, is_revoked: bool) -> None:
        self.run_id = loaded.run.id
        self._bench = bench
        self._loaded = loaded
        self._caller = caller
        self._is_revoked = is_revoked
        self._stop = Stop(is_wanted=loaded.run.status == "cancelling")
        self._work: UnderWay
        self._asking: Asking
        self._calling: Calling

    def cancel(self) -> None:
        """Somebody wants the run cancelled: the engine stops at once."""
        self._stop.want()

    async def go(self, pen: Pen) -> None:
        """Until the end of the leg. Raises `ApiError` where it is to be tried again later."""
        self._work = work = UnderWay(self._loaded, self._caller, self._bench.tools, pen)
        self._asking = Asking(self._bench, work, self._stop)
        self._calling = Calling(work, self._stop)
        expires_at = pen.run.expires_at or self._work.now()
        try:
            async with asyncio.timeout((expires_at - self._work.now()).total_seconds()):
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
            if not self._work.has_begun and isinstance(outcome_of(exc), PutOff):
                with contextlib.suppress(LostError):
                    await pen.flush()
                raise
            await self._end(self._failure(exc))
        except Exception:  # a defect of ours ends the run, not the worker
            log.exception("a run failed")
            await self._end(self._failure(InternalError("The server failed at this run.")))

    # inside

    async def _go(self) -> None:
        self._stop.check()
        self._tidy()
        pen = self._work.pen
        if pen.run.status == "queued":
            begun = replace(
                pen.run, status="in_progress", started_at=pen.run.started_at or self._work.now()
            )
            events = [("thread.run.in_progress", run_object(begun))]
            pen.note(begun, events=events, is_lazy=True)
        if self._is_revoked:
            raise NotAllowedError("The app was revoked before this run was done.")
        await self._calling.call_tools()
        while not await self._round():
            self._stop.check()

    def _tidy(self) -> None:
        """End what whoever did this run before has left half done."""
        known = {action.step_id for action in self._work.actions}
        events: list[tuple[str, object]] = []
        broken = []
        for number, step in enumerate(self._work.steps):
            if step.status != "in_progress" or step.id in known:
                continue
            error = ("server_error", "Who did this step is gone; it is done again.")
            self._work.steps[number] = failed = ended_step(step, "failed", self._work.now(), error)
            broken.append(failed)
            events.append(("thread.run.step.failed", step_object(failed)))
        if broken or self._work.half_messages:
            self._work.pen.note(steps=broken, gone_messages=self._work.half_messages, events=events)

    async def _round(self) -> bool:
        """Ask the model once, and do what it asks for; whether the leg is over."""
        completed = [step for step in self._work.steps if step.status == "completed"]
        rounds = sum(step.type == "tool_calls" for step in completed)
        if rounds >= self._bench.max_rounds:
            most = self._bench.max_rounds
            why = f"The model called tools {most} times, the most here (assistants.max_rounds)."
            raise FailedError(Ending("failed", ("server_error", not_resumable(why))))
        reply, record = await self._asking.ask(is_first=rounds == 0)
        prompt, completion = record.prompt_tokens or 0, record.completion_tokens or 0
        now, pen = self._work.now(), self._work.pen
        if reply.answer.finish_reason == "length":
            raise FailedError(Ending("incomplete", reason="max_completion_tokens"))
        steps: list[Step] = []
        messages: list[Spoken] = []
        events: list[tuple[str, object]] = []
        if reply.answer.text or not reply.answer.calls:
            citations = self._calling.citations(reply.answer.text)
            message, told = reply.finish_message(now, citations)
            assert reply.message_step is not None, "a message has a step"
            done = ended_step(reply.message_step, "completed", now)
            if not reply.answer.calls:
                done = with_usage(done, prompt, completion)
            messages.append(message)
            steps.append(done)
            events += [*told, ("thread.run.step.completed", step_object(done))]
        if not reply.answer.calls:
            closed = close(pen.run, Ending("completed"), now)
            self._work.forget(reply)
            self._work.steps += steps
            events += closed.events
            await pen.commit(closed.run, steps=steps, messages=messages, events=events)
            tell_ended(self._bench.run_ended, closed.run)
            return True
        step, actions = reply.calls(now)
        step = with_usage(step, prompt, completion)
        self._work.forget(reply)
        self._work.steps += [*steps, step]
        self._work.actions += actions
        pen.note(steps=[*steps, step], messages=messages, actions=actions, events=events)
        return await self._calling.call_tools()

    async def _end(self, ending: Ending) -> None:
        """End the run, and what is open in it."""
        pen, reply = self._work.pen, self._work.reply
        open_steps = [*self._work.steps, *(reply.steps if reply is not None else [])]
        try:
            closed = close(
                pen.run,
                ending,
                self._work.now(),
                steps=[self._with_calls(step) for step in open_steps],
                messages=reply.half_messages if reply is not None else [],
                actions=self._work.actions,
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
        tell_ended(self._bench.run_ended, closed.run)

    def _with_calls(self, step: Step) -> Step:
        """A step whose answer broke off shows the calls as far as they came."""
        reply = self._work.reply
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
        told = resumable(self._work.pen.run, error.message)
        return Ending("failed", (code, told), can_resume=True)  # type: ignore[arg-type]
