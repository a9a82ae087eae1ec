"""Writes down what comes from elsewhere with its ids and dates; what is there already stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from api_server.stores.postgres import Connection, Postgres, queries
from api_server.stores.threads import NewMessage, NewThread, lock_thread

Fate = Literal["taken", "known", "refused"]
"""Written now; the app had it before; the id is somebody else's."""

BUDGET_SECONDS = 30.0
MESSAGES_AT_ONCE = 500

_SQL = queries("imports")


@dataclass(frozen=True, slots=True)
class ThreadFate:
    """What became of a thread, and of its messages by their ids."""

    thread: Fate
    taken: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()


async def add_assistant(
    postgres: Postgres, app_id: str, assistant_id: str, created_at: datetime | None, body: str
) -> Fate:
    """Write an assistant down; `body` as `stores.assistants.Assistant` has it."""
    if await postgres.fetchrow(_SQL["add_assistant"], assistant_id, app_id, created_at, body):
        return "taken"
    row = await postgres.fetchrow(_SQL["has_assistant"], app_id, assistant_id)
    return "known" if row is not None and row[0] else "refused"


async def add_thread(
    postgres: Postgres, thread: NewThread, messages: Sequence[NewMessage]
) -> ThreadFate:
    """Write down a thread and those of its messages that it does not have yet, all or nothing."""

    async def work(connection: Connection) -> ThreadFate:
        added = await connection.fetchrow(
            _SQL["add_thread"],
            *(thread.id, thread.app_id, thread.user, thread.created_at),
            *(thread.tool_resources, thread.metadata),
        )
        if await lock_thread(connection, thread.app_id, None, thread.id) is None:
            return ThreadFate("refused")
        taken: set[str] = set()
        for begin in range(0, len(messages), MESSAGES_AT_ONCE):
            part = messages[begin : begin + MESSAGES_AT_ONCE]
            taken |= await _add_messages(connection, thread, part)
        left = [each.id for each in messages if each.id not in taken]
        rows = await connection.fetch(_SQL["has_messages"], thread.app_id, thread.id, left)
        refused = set(left) - {row["id"] for row in rows}
        fate: Fate = "known" if added is None else "taken"
        return ThreadFate(fate, frozenset(taken), frozenset(refused))

    return await postgres.transaction(work, budget_seconds=BUDGET_SECONDS)


async def _add_messages(
    connection: Connection, thread: NewThread, messages: Sequence[NewMessage]
) -> set[str]:
    rows = await connection.fetch(
        _SQL["add_messages"],
        *(thread.app_id, thread.id),
        *([each.id for each in messages], [each.role for each in messages]),
        *([each.content for each in messages], [each.attachments for each in messages]),
        *([each.metadata for each in messages], [each.assistant_id for each in messages]),
        *([each.run_id for each in messages], [each.status for each in messages]),
        *([each.incomplete_details for each in messages], [each.created_at for each in messages]),
        *([each.completed_at for each in messages], [each.incomplete_at for each in messages]),
    )
    return {row["id"] for row in rows}
