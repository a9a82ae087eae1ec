"""Shows which calls of functions wait, and what became of others."""

from typing import Any, cast, get_args

from api_server.errors import InvalidRequestError
from api_server.schemas.apps import Caller
from api_server.schemas.paging import Page, list_answer
from api_server.services.reading import check_storable
from api_server.stores.actions import ActionStore
from api_server.stores.run_rows import Action, ActionStatus


class Actions:
    """One object for all requests."""

    def __init__(self, store: ActionStore) -> None:
        self._store = store

    async def listed(
        self, caller: Caller, page: Page, *, status: str | None, thread_id: str | None
    ) -> dict[str, Any]:
        """The caller's calls; of a status, of a thread."""
        known = get_args(ActionStatus)
        if status is not None and status not in known:
            raise InvalidRequestError(f"status: must be one of {', '.join(known)}.", param="status")
        if thread_id is not None:
            check_storable(thread_id, "thread_id")
        found, has_more = await self._store.listed(
            caller.app.id,
            caller.user,
            page,
            status=cast("ActionStatus | None", status),
            thread_id=thread_id,
        )
        return list_answer([_object(each) for each in found], has_more=has_more)


def _object(action: Action) -> dict[str, Any]:
    """As clients see it; `executed_by` says who has to do it."""
    return {
        "id": action.id,
        "object": "action",
        "status": action.status,
        "thread_id": action.thread_id,
        "run_id": action.run_id,
        "tool_call_id": action.tool_call_id,
        "function": {
            "name": action.name,
            "arguments": action.arguments,
            "output": action.output,
        },
        "executed_by": "server" if action.is_ours else "client",
        "created_at": int(action.created_at.timestamp()),
        "ended_at": None if action.ended_at is None else int(action.ended_at.timestamp()),
    }
