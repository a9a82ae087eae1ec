"""One message in, its answer out: `POST /api/messages/process`, and the same as a library.

The message and the run are written in one transaction; the answer is read from the run's stream.
So a conversation survives what runs survive, and its thread is an ordinary one.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from api_server.errors import NotAllowedError, NotFoundError
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import KeptAssistant
from api_server.schemas.conversations import Wanted
from api_server.services.assistants.rules import check_id
from api_server.services.conversations.reading import choose_model, read_process
from api_server.services.functions.hosts import FunctionHosts
from api_server.services.runs.following import Following
from api_server.services.runs.queue import Begun
from api_server.services.runs.service import RunService
from api_server.stores.assistants import AssistantStore
from api_server.stores.run_rows import Event
from api_server.stores.threads import ThreadStore

Json = dict[str, Any]
FAILED = frozenset({"thread.run.failed", "thread.run.expired", "thread.run.cancelled"})
WAITS = "thread.run.requires_action"


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer: text, or calls that the client has to answer, or that it has failed."""

    text: str = ""
    required_action: Json | None = None
    has_failed: bool = False


class ConversationService:
    """One object for all requests."""

    def __init__(
        self,
        runs: RunService,
        following: Following,
        threads: ThreadStore,
        assistants: AssistantStore,
        catalogue: Catalogue,
        functions: FunctionHosts,
    ) -> None:
        self._runs = runs
        self._following = following
        self._threads = threads
        self._assistants = assistants
        self._catalogue = catalogue
        self._functions = functions

    async def process(self, caller: Caller, body: bytes) -> Begun:
        """Write the message, begin its run. Raises `ApiError`."""
        return await self.begin(caller, read_process(body))

    async def begin(
        self, caller: Caller, wanted: Wanted, tools: Sequence[Json] | None = None
    ) -> Begun:
        """The same of what was read. `tools` are those of the run, where it has no assistant of its
        own: else the operator's functions.
        """
        user = self._user_of(caller, wanted)
        asked: Json = {
            "model": choose_model(self._catalogue, caller, wanted),
            "assistant_id": wanted.assistant_id,
        }
        if wanted.assistant_id is None:
            asked["assistant_id"] = await self._default_assistant(caller, asked["model"])
            asked["tools"] = await self._functions.tools() if tools is None else tools
        message = {"role": "user", "content": wanted.content}
        if wanted.thread_id is None:
            asked["thread"] = {"messages": [message]}
            body = msgspec.json.encode(asked)
            return await self._runs.create_with_thread(replace(caller, user=user), body)
        await self._check_thread(caller, wanted.thread_id, user)
        asked["additional_messages"] = [message]
        return await self._runs.create(caller, wanted.thread_id, msgspec.json.encode(asked))

    async def said(self, begun: Begun) -> AsyncIterator[Said]:
        """What the run says, until it stops."""
        run_id, events = begun.run.id, begun.events
        async with aclosing(self._following.events(run_id, begun.after, events)) as blocks:
            async for block in blocks:
                for event in block:
                    if (piece := _said(event)) is not None:
                        yield piece

    @staticmethod
    def _user_of(caller: Caller, wanted: Wanted) -> str | None:
        if caller.user is not None and wanted.user not in (None, caller.user):
            raise NotAllowedError("userId: is another user than the one of your token.")
        return caller.user or wanted.user

    async def _check_thread(self, caller: Caller, thread_id: str, user: str | None) -> None:
        """A thread is its user's; one that the app itself made is everybody's for whom it asks."""
        check_id("thread", thread_id)
        thread = await self._threads.find(caller.app.id, caller.user, thread_id)
        if thread is None or (user is not None and thread.user not in (None, user)):
            raise NotFoundError.of("thread", thread_id)

    async def _default_assistant(self, caller: Caller, model: str) -> str:
        """The one of an app for conversations that name none; made where it is missing."""
        digest = hashlib.sha256(f"{caller.app.id} conversations".encode()).hexdigest()
        assistant_id = f"asst_{digest[:24]}"
        body = KeptAssistant(model=model, name="Conversations")
        await self._assistants.ensure(
            caller.app.id, assistant_id, msgspec.json.encode(body).decode()
        )
        return assistant_id


def _said(event: Event) -> Said | None:
    """Pure."""
    if event.event == "thread.message.delta":
        delta = msgspec.json.decode(event.data)["delta"]
        parts = [part for part in delta.get("content") or () if part.get("type") == "text"]
        text = "".join((part.get("text") or {}).get("value") or "" for part in parts)
        return Said(text=text) if text else None
    if event.event == WAITS:
        return Said(required_action=msgspec.json.decode(event.data)["required_action"])
    return Said(has_failed=True) if event.event in FAILED else None
