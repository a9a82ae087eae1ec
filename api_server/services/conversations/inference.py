"""`get_inference(...).process_conversation(...)` of the Entities guide, over stored threads.

The same path as `POST /api/messages/process`: the run is work on the job queue, done by whichever
process has room. Functions of this process are called here, when the run waits for them.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import msgspec

from api_server.errors import InferenceError, StackError
from api_server.inference.conversations.factory import Functions, Location, location_of
from api_server.inference.conversations.functions import FunctionTools
from api_server.inference.schemas import ToolCall
from api_server.inference.tracking import StreamError
from api_server.schemas.apps import Caller
from api_server.schemas.conversations import Wanted
from api_server.services.conversations.service import ConversationService
from api_server.services.runs.queue import Begun
from api_server.services.runs.room import Runs


@dataclass(frozen=True, slots=True)
class StoredInference:
    """Answers messages of an app's threads with a model of one location."""

    location: Location
    conversations: ConversationService
    runs: Runs
    caller: Caller
    functions: FunctionTools

    async def process_conversation(
        self,
        thread_id: str,
        message_id: str | None,
        run_id: str | None,
        assistant_id: str | None,
        user_message: str,
    ) -> AsyncGenerator[str, None]:
        """Answer a message; an async generator of the answer's text.

        With a `run_id` that run is followed from its beginning, and nothing is written: the message
        was, with it. Else the message is added and a run begun; `message_id` has no meaning then,
        for the store gives ids. An error is a last chunk that begins with `STREAM_ERROR:`.
        """
        del message_id
        try:
            if run_id is not None:
                run = await self.runs.reader.find(self.caller, thread_id, run_id)
                begun = Begun(run, 0, (), wants_stream=True)
            else:
                begun = await self.conversations.begin(
                    self.caller,
                    Wanted(
                        content=user_message,
                        location=self.location,
                        thread_id=thread_id,
                        assistant_id=assistant_id,
                    ),
                    self.functions.tools or None,
                )
            while True:
                required: dict[str, Any] | None = None
                async for said in self.conversations.said(begun):
                    if said.text:
                        yield said.text
                    if said.has_failed:
                        yield StreamError.of(
                            InferenceError("The run has failed; its last_error says why.")
                        )
                        return
                    required = said.required_action or required
                if required is None:
                    return
                begun = await self._answered(begun, required)
        except StackError as exc:
            yield StreamError.of(exc)

    async def _answered(self, begun: Begun, required: dict[str, Any]) -> Begun:
        """Call what the run waits for, and let it go on."""
        calls = [
            ToolCall(
                id=each["id"],
                name=each["function"]["name"],
                arguments=each["function"]["arguments"],
            )
            for each in required["submit_tool_outputs"]["tool_calls"]
        ]
        outputs = await asyncio.gather(*(self.functions.call(call) for call in calls))
        body = {
            "tool_outputs": [
                {"tool_call_id": call.id, "output": output}
                for call, output in zip(calls, outputs, strict=True)
            ]
        }
        run = begun.run
        return await self.runs.outputs.submit(
            self.caller, run.thread_id, run.id, msgspec.json.encode(body)
        )


@dataclass(frozen=True, slots=True)
class StoredInferenceFactory:
    """Makes inferences for one app, as `InferenceFactory` does over memory."""

    conversations: ConversationService
    runs: Runs
    caller: Caller

    def get_inference(
        self, inference_type: str = "local", available_functions: Functions | None = None
    ) -> StoredInference:
        """Raises `ValueError` for another type than local and cloud."""
        return StoredInference(
            location_of(inference_type),
            *(self.conversations, self.runs, self.caller),
            FunctionTools(available_functions or {}),
        )
