"""`GET /api/actions`: calls of functions that runs have made (docs/assistants.md)."""

from fastapi import APIRouter, Request, Response

from api_server.routes.stored import answer, caller_of, page_of, service_of
from api_server.services.functions.actions import Actions

router = APIRouter(tags=["assistants"])


@router.get("/api/actions")
async def list_actions(
    request: Request, status: str | None = None, thread_id: str | None = None
) -> Response:
    """The caller's calls, newest first; `status=pending` for those that wait."""
    actions: Actions = service_of(request, "actions")
    return answer(
        await actions.listed(
            caller_of(request), page_of(request), status=status, thread_id=thread_id
        )
    )
