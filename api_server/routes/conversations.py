"""`POST /api/messages/process` of the Entities guide (docs/assistants.md)."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from api_server.errors import DependencyDownError
from api_server.routes.stored import STREAM, body_of, caller_of, service_of, takes
from api_server.schemas.conversations import ProcessBody
from api_server.services.conversations.service import ConversationService
from api_server.services.runs.queue import Begun

router = APIRouter(tags=["assistants"])

FAILED = b"data: [ERROR]\n\n"


@router.post(
    "/api/messages/process",
    openapi_extra=takes(ProcessBody),
    response_class=StreamingResponse,
    responses=STREAM,
)
async def process_messages(request: Request) -> StreamingResponse:
    """Answer a message of a thread, as a stream of chunks."""
    conversations: ConversationService = service_of(request, "conversations")
    begun = await conversations.process(caller_of(request), await body_of(request))
    return StreamingResponse(
        _lines(conversations, begun),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def _lines(conversations: ConversationService, begun: Begun) -> AsyncIterator[bytes]:
    yield _line({"run_id": begun.run.id, "thread_id": begun.run.thread_id})
    try:
        async for said in conversations.said(begun):
            if said.has_failed:
                yield FAILED
                return
            if said.required_action is not None:
                yield _line({"required_action": said.required_action})
            else:
                yield _line({"chunk": said.text})
    except DependencyDownError:  # the run may go on; nobody can follow it now
        yield FAILED
        return
    yield b"data: [DONE]\n\n"


def _line(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
