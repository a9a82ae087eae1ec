"""Threads and their messages: made, read, changed, deleted."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from msgspec import UNSET

from api_server.errors import InvalidRequestError, NotFoundError
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import FileSearchResources, InlineStore, ToolResources
from api_server.schemas.ids import new_id
from api_server.schemas.paging import Page, list_answer
from api_server.schemas.threads import MessageBody, MessageChange, ThreadBody, ThreadChange
from api_server.services.assistants.objects import (
    Json,
    message_object,
    new_message,
    searched_files,
    thread_object,
    to_json,
)
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.rules import (
    attached_files,
    check_id,
    check_messages,
    check_resources,
    read_kept,
)
from api_server.services.assistants.seams import THREAD_STORE_DAYS, StopRuns
from api_server.stores.postgres import Connection
from api_server.stores.threads import (
    NewMessage,
    NewThread,
    Thread,
    ThreadStore,
    active_run,
    change_thread,
    delete_message,
    delete_thread,
    find_message,
    insert_messages,
    insert_thread,
    lock_thread,
)

_THREAD = msgspec.json.Decoder(ThreadBody)
_THREAD_CHANGE = msgspec.json.Decoder(ThreadChange)
_MESSAGE = msgspec.json.Decoder(MessageBody)
_MESSAGE_CHANGE = msgspec.json.Decoder(MessageChange)
_RESOURCES = msgspec.json.Decoder(ToolResources)


class ThreadService:
    """One object for all requests. `stop_runs` ends the work of a thread that is deleted.

    `create_in` and `add_in` are parts of somebody's transaction.
    """

    def __init__(self, store: ThreadStore, resources: Resources, stop_runs: StopRuns) -> None:
        self._store = store
        self._resources = resources
        self._stop_runs = stop_runs

    async def create(self, caller: Caller, body: bytes) -> Json:
        asked = read_kept(body or b"{}", _THREAD)

        async def work(connection: Connection) -> Thread:
            return await self.create_in(connection, caller, asked, "messages")

        return thread_object(await self._store.postgres.transaction(work))

    async def create_in(
        self, connection: Connection, caller: Caller, asked: ThreadBody, named: str
    ) -> Thread:
        """A new thread with its messages, which the request has as `named`. It is locked.

        Raises `InvalidRequestError`.
        """
        resources = await self._resources.settle(
            connection, caller, asked.tool_resources, expires_after_days=THREAD_STORE_DAYS
        )
        app_id, user = caller.app.id, caller.user
        thread_id = new_id("thread")
        kept = to_json(resources)
        await insert_thread(
            connection, NewThread(thread_id, app_id, user, kept, to_json(asked.metadata or {}))
        )
        thread = await lock_thread(connection, app_id, user, thread_id)
        assert thread is not None, "it was written a moment ago"
        if asked.messages:
            return (await self.add_in(connection, caller, thread, asked.messages, named))[0]
        return thread

    async def add_in(
        self,
        connection: Connection,
        caller: Caller,
        thread: Thread,
        bodies: Sequence[MessageBody],
        named: str,
    ) -> tuple[Thread, list[NewMessage]]:
        """Add messages to a thread that is locked; the thread as it is then.

        Files that are to be searched come into its vector store, which is made where it has none.
        Raises `InvalidRequestError`.
        """
        check_messages(bodies, named)
        messages = [new_message(thread.app_id, thread.id, body) for body in bodies]
        await self._resources.check_files(connection, caller, attached_files(bodies, named))
        searched = searched_files(bodies)
        if searched:
            thread = await self._make_searchable(connection, caller, thread, searched)
        await insert_messages(connection, messages)
        return thread, messages

    async def retrieve(self, caller: Caller, thread_id: str) -> Json:
        return thread_object(await self.find(caller, thread_id))

    async def modify(self, caller: Caller, thread_id: str, body: bytes) -> Json:
        asked = read_kept(body, _THREAD_CHANGE)
        resources, metadata = asked.tool_resources, asked.metadata

        async def work(connection: Connection) -> Thread:
            thread = await self.lock(connection, caller, thread_id)
            kept = None
            if resources is not UNSET:
                check_resources(resources, may_make=False)
                settled = await self._resources.settle(connection, caller, resources)
                kept = to_json(settled)
            words = None if metadata is UNSET else to_json(metadata or {})
            return await change_thread(
                connection, thread.app_id, thread.id, tool_resources=kept, metadata=words
            )

        return thread_object(await self._store.postgres.transaction(work))

    async def delete(self, caller: Caller, thread_id: str) -> Json:
        async def work(connection: Connection) -> None:
            thread = await self.lock(connection, caller, thread_id)
            await self._stop_runs(connection, thread.id)
            await delete_thread(connection, thread.app_id, thread.id)

        await self._store.postgres.transaction(work)
        return {"id": thread_id, "object": "thread.deleted", "deleted": True}

    async def add_message(self, caller: Caller, thread_id: str, body: bytes) -> Json:
        """Raises `InvalidRequestError` while a run of the thread is active."""
        asked = read_kept(body, _MESSAGE)

        async def work(connection: Connection) -> Json:
            thread = await self.lock(connection, caller, thread_id)
            await refuse_while_active(connection, thread, "add messages to")
            _, (message,) = await self.add_in(connection, caller, thread, [asked], "")
            kept = await find_message(connection, thread.app_id, thread.id, message.id)
            assert kept is not None, "it was written a moment ago"
            return message_object(kept)

        return await self._store.postgres.transaction(work)

    async def messages(
        self, caller: Caller, thread_id: str, page: Page, run_id: str | None = None
    ) -> Json:
        """A list of them; those of one run where `run_id` is not None."""
        thread = await self.find(caller, thread_id)
        if run_id is not None:
            check_id("run", run_id)
        found, has_more = await self._store.messages(thread.app_id, thread.id, page, run_id)
        return list_answer([message_object(each) for each in found], has_more=has_more)

    async def message(self, caller: Caller, thread_id: str, message_id: str) -> Json:
        thread = await self.find(caller, thread_id)
        check_id("message", message_id)
        found = await self._store.message(thread.app_id, thread.id, message_id)
        if found is None:
            raise NotFoundError.of("message", message_id)
        return message_object(found)

    async def modify_message(
        self, caller: Caller, thread_id: str, message_id: str, body: bytes
    ) -> Json:
        asked = read_kept(body, _MESSAGE_CHANGE)
        if asked.metadata is UNSET:
            return await self.message(caller, thread_id, message_id)
        thread = await self.find(caller, thread_id)
        check_id("message", message_id)
        changed = await self._store.change_message(
            thread.app_id, thread.id, message_id, to_json(asked.metadata or {})
        )
        if changed is None:
            raise NotFoundError.of("message", message_id)
        return message_object(changed)

    async def delete_message(self, caller: Caller, thread_id: str, message_id: str) -> Json:
        """Raises `InvalidRequestError` for one that an active run is writing."""
        check_id("message", message_id)

        async def work(connection: Connection) -> None:
            thread = await self.lock(connection, caller, thread_id)
            message = await find_message(connection, thread.app_id, thread.id, message_id)
            if message is None:
                raise NotFoundError.of("message", message_id)
            if message.run_id is not None:
                active = await active_run(connection, thread.app_id, thread.id)
                if active == message.run_id:
                    raise _busy(thread.id, active, "delete messages of")
            await delete_message(connection, thread.app_id, thread.id, message_id)

        await self._store.postgres.transaction(work)
        return {"id": message_id, "object": "thread.message.deleted", "deleted": True}

    async def find(self, caller: Caller, thread_id: str) -> Thread:
        """A thread that the caller sees. Raises `NotFoundError`."""
        check_id("thread", thread_id)
        thread = await self._store.find(caller.app.id, caller.user, thread_id)
        if thread is None:
            raise NotFoundError.of("thread", thread_id)
        return thread

    async def lock(self, connection: Connection, caller: Caller, thread_id: str) -> Thread:
        """A thread that the caller sees, locked. Raises `NotFoundError`."""
        check_id("thread", thread_id)
        thread = await lock_thread(connection, caller.app.id, caller.user, thread_id)
        if thread is None:
            raise NotFoundError.of("thread", thread_id)
        return thread

    # inside

    async def _make_searchable(
        self, connection: Connection, caller: Caller, thread: Thread, file_ids: list[str]
    ) -> Thread:
        """With the files in the thread's vector store, and one made where it has none: the thread's
        user may add to it, whoever speaks first of a file.
        """
        resources = _RESOURCES.decode(thread.tool_resources or "{}")
        search = resources.file_search
        if search is not None and search.vector_store_ids:
            await self._resources.vector_stores.add(
                connection, caller, search.vector_store_ids[0], file_ids
            )
            return thread
        made = await self._resources.vector_stores.make(
            *(connection, caller, InlineStore(file_ids)),
            user=thread.user,
            expires_after_days=THREAD_STORE_DAYS,
        )
        kept = to_json(ToolResources(file_search=FileSearchResources(vector_store_ids=[made])))
        await change_thread(connection, thread.app_id, thread.id, tool_resources=kept)
        return replace(thread, tool_resources=kept)


async def refuse_while_active(connection: Connection, thread: Thread, what: str) -> None:
    """Raises `InvalidRequestError` where a run of this thread, which is locked, has not ended."""
    active = await active_run(connection, thread.app_id, thread.id)
    if active is not None:
        raise _busy(thread.id, active, what)


def _busy(thread_id: str, run_id: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"Can't {what} {thread_id} while a run {run_id} is active.")
