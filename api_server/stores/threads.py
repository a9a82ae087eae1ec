"""Threads and their messages in PostgreSQL.

JSON columns come and go as text. Functions that take a connection are parts of somebody's
transaction. Whoever adds messages to a thread, or a run, first locks its row with `lock_thread`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, Row, queries

Role = Literal["user", "assistant"]
MessageStatus = Literal["in_progress", "incomplete", "completed"]

_SQL = queries("threads")


@dataclass(frozen=True, slots=True)
class NewThread:
    """One to write down; `user` is the end user whose it is. `created_at` None: now."""

    id: str
    app_id: str
    user: str | None
    tool_resources: str | None
    metadata: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread as it is kept."""

    id: str
    app_id: str
    user: str | None
    created_at: datetime
    tool_resources: str | None
    metadata: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One to write down. `content` is a JSON list of parts; `created_at` None: now."""

    id: str
    thread_id: str
    app_id: str
    role: Role
    content: str
    attachments: str | None
    metadata: str
    assistant_id: str | None = None
    run_id: str | None = None
    status: MessageStatus = "completed"
    created_at: datetime | None = None
    completed_at: datetime | None = None
    incomplete_at: datetime | None = None
    incomplete_details: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is kept."""

    id: str
    thread_id: str
    created_at: datetime
    status: MessageStatus
    role: Role
    content: str
    assistant_id: str | None
    run_id: str | None
    attachments: str | None
    metadata: str
    incomplete_details: str | None
    completed_at: datetime | None
    incomplete_at: datetime | None


async def insert_thread(connection: Connection, thread: NewThread) -> None:
    """Write a thread down."""
    await connection.execute(
        _SQL["insert_thread"],
        *(thread.id, thread.app_id, thread.user, thread.tool_resources, thread.metadata),
        thread.created_at,
    )


async def insert_messages(connection: Connection, messages: Sequence[NewMessage]) -> None:
    """Write messages down, the first as the oldest."""
    if not messages:
        return
    await connection.execute(
        _SQL["insert_messages"],
        *([each.id for each in messages], [each.thread_id for each in messages]),
        *([each.app_id for each in messages], [each.role for each in messages]),
        *([each.content for each in messages], [each.attachments for each in messages]),
        *([each.metadata for each in messages], [each.assistant_id for each in messages]),
        *([each.run_id for each in messages], [each.status for each in messages]),
        *([each.incomplete_details for each in messages], [each.created_at for each in messages]),
        *([each.completed_at for each in messages], [each.incomplete_at for each in messages]),
    )


async def lock_thread(
    connection: Connection, app_id: str, user: str | None, thread_id: str
) -> Thread | None:
    """The thread, whose messages and runs are ours alone to add until the transaction ends.

    `user` None sees every thread of the app.
    """
    row = await connection.fetchrow(_SQL["lock_thread"], app_id, user, thread_id)
    return None if row is None else _thread(row)


async def active_run(connection: Connection, app_id: str, thread_id: str) -> str | None:
    """The id of the thread's run that has not ended, if there is one. Lock the thread first."""
    found: str | None = await connection.fetchval(_SQL["active_run"], app_id, thread_id)
    return found


async def change_thread(
    connection: Connection,
    app_id: str,
    thread_id: str,
    *,
    tool_resources: str | None = None,
    metadata: str | None = None,
) -> Thread:
    """Write what is not None; the thread is there, and locked."""
    row = await connection.fetchrow(
        _SQL["change_thread"],
        *(app_id, thread_id, tool_resources is not None, tool_resources),
        *(metadata is not None, metadata),
    )
    assert row is not None, "whoever changes a thread has locked it"
    return _thread(row)


async def delete_thread(connection: Connection, app_id: str, thread_id: str) -> None:
    """With its messages and runs. Whoever does a run of it has been stopped before."""
    await connection.execute(_SQL["delete_thread"], app_id, thread_id)


async def delete_message(
    connection: Connection, app_id: str, thread_id: str, message_id: str
) -> bool:
    """Whether there was one."""
    done = await connection.execute(_SQL["delete_message"], app_id, thread_id, message_id)
    return done != "DELETE 0"


async def find_message(
    connection: Connection, app_id: str, thread_id: str, message_id: str
) -> Message | None:
    row = await connection.fetchrow(_SQL["find_message"], app_id, thread_id, message_id)
    return None if row is None else _message(row)


class ThreadStore:
    """What is asked of threads. `user` None sees every thread of the app."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def find(self, app_id: str, user: str | None, thread_id: str) -> Thread | None:
        row = await self.postgres.fetchrow(_SQL["find_thread"], app_id, user, thread_id)
        return None if row is None else _thread(row)

    async def message(self, app_id: str, thread_id: str, message_id: str) -> Message | None:
        row = await self.postgres.fetchrow(_SQL["find_message"], app_id, thread_id, message_id)
        return None if row is None else _message(row)

    async def change_message(
        self, app_id: str, thread_id: str, message_id: str, metadata: str
    ) -> Message | None:
        """None where there is none."""
        row = await self.postgres.fetchrow(
            _SQL["change_message"], app_id, thread_id, message_id, metadata
        )
        return None if row is None else _message(row)

    async def messages(
        self, app_id: str, thread_id: str, page: Page, run_id: str | None = None
    ) -> tuple[list[Message], bool]:
        """A page of them, all or those of one run, and whether there are more."""
        scope = (app_id, thread_id, run_id)
        rows, has_more = await page_of(self.postgres, _SQL, "messages", scope, page)
        return [_message(row) for row in rows], has_more


def _thread(row: Row) -> Thread:
    fields = dict(row)
    fields["user"] = fields.pop("user_name")
    return Thread(**fields)


def _message(row: Row) -> Message:
    return Message(**dict(row))
