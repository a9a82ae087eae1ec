"""Asks the model for a run: what it is shown, within the run's limits, and its answer, whole."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import msgspec

from api_server.errors import ApiError, ContextLengthError, InvalidRequestError
from api_server.inference.shortening import TRIES, keep_newest, share_that_fits
from api_server.observability.metrics import RUN_ROUTE
from api_server.observability.record import RequestRecord, new_request_id
from api_server.services.runs.context import MOST_MESSAGES, chat_body, chat_messages, within
from api_server.services.runs.endings import Ending, resumable
from api_server.services.runs.hearing import Hearing, Piece
from api_server.services.runs.reply import Reply, with_usage
from api_server.services.runs.stopping import FailedError, Stop, StoppedError
from api_server.services.runs.under_way import Bench, UnderWay


class Asking:
    """Of one leg."""

    def __init__(self, bench: Bench, work: UnderWay, stop: Stop) -> None:
        self._bench = bench
        self._work = work
        self._stop = stop

    async def ask(self, *, is_first: bool) -> tuple[Reply, RequestRecord]:
        """The model's answer, whole. Raises what keeps it from coming."""
        messages = await self._messages()
        most = self._answer_room()
        for tries in range(1, TRIES + 2):
            body = chat_body(
                self._work.wish, messages, self._bench.tools, is_first=is_first, most_tokens=most
            )
            try:
                return await self._ask_once(body)
            except ContextLengthError as exc:
                if (
                    tries > TRIES
                    or self._work.has_begun
                    or self._work.wish.truncation_strategy.type != "auto"
                ):
                    raise
                raws = [msgspec.Raw(msgspec.json.encode(each)) for each in messages]
                kept = keep_newest(raws, share_that_fits(exc, most, tries))
                if len(kept) == len(raws):
                    raise
                messages = [msgspec.json.decode(each) for each in kept]
        raise AssertionError("the last try returns or raises")

    # inside

    async def _ask_once(self, body: bytes) -> tuple[Reply, RequestRecord]:
        self._work.reply = reply = Reply(self._work.pen, self._work.here, self._work.functions)
        record = self._record()

        async def told(piece: Piece) -> None:
            reply.hear(piece, self._work.now())
            await self._work.pen.keep_pace()

        client = Hearing(self._work.caller, reply.answer, told)
        try:
            await self._stop.unless(self._bench.chats.chat(body, client, record))
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
                        resumable(self._work.pen.run, message),
                    ),
                    can_resume=True,
                )
            )
        return reply, record

    async def _messages(self) -> list[dict[str, Any]]:
        """What the model is shown, within the limits of the run."""
        last = self._work.wish.truncation_strategy.last_messages
        is_bounded = (
            self._work.wish.truncation_strategy.type == "last_messages" and last is not None
        )
        most = last if is_bounded and last is not None else MOST_MESSAGES
        own = sum(step.type == "message_creation" for step in self._work.steps)
        run = self._work.pen.run
        heard, self._work.heard = self._work.heard, None
        if heard is None:
            if own:
                await self._work.pen.flush()  # its own messages are read as rows too
            heard = await self._bench.store.conversation(run, most + own)
        others = [each for each in heard if each.run_id != run.id]
        for each in others[: max(0, len(others) - most)]:
            heard.remove(each)
        messages = chat_messages(
            self._work.wish.instructions, heard, run.id, self._work.steps, self._work.actions
        )
        if not messages:
            raise InvalidRequestError("There is no message and no instruction to answer.")
        if self._work.wish.max_prompt_tokens is not None:
            left = self._work.wish.max_prompt_tokens - run.prompt_tokens
            fitting = within(messages, left) if left > 0 else None
            if fitting is None:
                raise FailedError(Ending("incomplete", reason="max_prompt_tokens"))
            return fitting
        return messages

    def _answer_room(self) -> int | None:
        bounds = []
        if self._work.wish.max_completion_tokens is not None:
            left = self._work.wish.max_completion_tokens - self._work.pen.run.completion_tokens
            if left <= 0:
                raise FailedError(Ending("incomplete", reason="max_completion_tokens"))
            bounds.append(left)
            if self._work.caller.app.policy.max_tokens is not None:
                bounds.append(self._work.caller.app.policy.max_tokens)
        return min(bounds, default=None)

    def _count(self, record: RequestRecord) -> None:
        """What the request used, in the run and in the step that it made."""
        prompt, completion = record.prompt_tokens or 0, record.completion_tokens or 0
        run, reply = self._work.pen.run, self._work.reply
        self._work.pen.run = replace(
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
        app = self._work.caller.app
        record.app_id, record.app, record.user = app.id, app.name, self._work.caller.user
        return record
