"""`/v1/threads` and their messages: OpenAI's Assistants API, kept here (docs/assistants.md)."""

from fastapi import APIRouter, Request, Response

from api_server.routes.stored import answer, body_of, caller_of, page_of, service_of, takes
from api_server.schemas.threads import MessageBody, MessageChange, ThreadBody, ThreadChange
from api_server.services.assistants.threads import ThreadService

router = APIRouter(prefix="/v1/threads", tags=["assistants"])

_MESSAGES = "/{thread_id}/messages"
_MESSAGE = "/{thread_id}/messages/{message_id}"


def _service(request: Request) -> ThreadService:
    service: ThreadService = service_of(request, "threads")
    return service


@router.post("", openapi_extra=takes(ThreadBody, required=False))
async def create_thread(request: Request) -> Response:
    """A new thread, with messages or without."""
    service = _service(request)
    return answer(await service.create(caller_of(request), await body_of(request)))


@router.get("/{thread_id}")
async def retrieve_thread(thread_id: str, request: Request) -> Response:
    """A thread, without its messages."""
    return answer(await _service(request).retrieve(caller_of(request), thread_id))


@router.post("/{thread_id}", openapi_extra=takes(ThreadChange))
async def modify_thread(thread_id: str, request: Request) -> Response:
    """Change its metadata, or what its tools may use."""
    service = _service(request)
    body = await body_of(request)
    return answer(await service.modify(caller_of(request), thread_id, body))


@router.delete("/{thread_id}")
async def delete_thread(thread_id: str, request: Request) -> Response:
    """With its messages and its runs."""
    return answer(await _service(request).delete(caller_of(request), thread_id))


@router.post(_MESSAGES, openapi_extra=takes(MessageBody))
async def create_message(thread_id: str, request: Request) -> Response:
    """A message at the end of the thread; not while a run of it is active."""
    service = _service(request)
    body = await body_of(request)
    return answer(await service.add_message(caller_of(request), thread_id, body))


@router.get(_MESSAGES)
async def list_messages(thread_id: str, request: Request, run_id: str | None = None) -> Response:
    """The thread's messages; with `run_id` those that one run has made."""
    service, page = _service(request), page_of(request)
    return answer(await service.messages(caller_of(request), thread_id, page, run_id or None))


@router.get(_MESSAGE)
async def retrieve_message(thread_id: str, message_id: str, request: Request) -> Response:
    """One of them."""
    return answer(await _service(request).message(caller_of(request), thread_id, message_id))


@router.post(_MESSAGE, openapi_extra=takes(MessageChange))
async def modify_message(thread_id: str, message_id: str, request: Request) -> Response:
    """Change its metadata."""
    service = _service(request)
    body = await body_of(request)
    return answer(await service.modify_message(caller_of(request), thread_id, message_id, body))


@router.delete(_MESSAGE)
async def delete_message(thread_id: str, message_id: str, request: Request) -> Response:
    """Not one that an active run is writing."""
    return answer(await _service(request).delete_message(caller_of(request), thread_id, message_id))
