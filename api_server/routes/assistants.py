"""`/v1/assistants`: OpenAI's Assistants API, kept here (docs/assistants.md)."""

from fastapi import APIRouter, Request, Response

from api_server.routes.stored import answer, body_of, caller_of, page_of, service_of, takes
from api_server.schemas.assistants import AssistantChange, NewAssistant
from api_server.services.assistants.assistants import AssistantService

router = APIRouter(prefix="/v1/assistants", tags=["assistants"])


def _service(request: Request) -> AssistantService:
    service: AssistantService = service_of(request, "assistants")
    return service


@router.post("", openapi_extra=takes(NewAssistant))
async def create_assistant(request: Request) -> Response:
    """A new assistant."""
    service = _service(request)
    return answer(await service.create(caller_of(request), await body_of(request)))


@router.get("")
async def list_assistants(request: Request) -> Response:
    """The app's assistants."""
    return answer(await _service(request).page(caller_of(request), page_of(request)))


@router.get("/{assistant_id}")
async def retrieve_assistant(assistant_id: str, request: Request) -> Response:
    """One of them."""
    return answer(await _service(request).retrieve(caller_of(request), assistant_id))


@router.post("/{assistant_id}", openapi_extra=takes(AssistantChange))
async def modify_assistant(assistant_id: str, request: Request) -> Response:
    """Change what the body has; null sets a field back."""
    service = _service(request)
    body = await body_of(request)
    return answer(await service.modify(caller_of(request), assistant_id, body))


@router.delete("/{assistant_id}")
async def delete_assistant(assistant_id: str, request: Request) -> Response:
    """Runs that were begun with it go on."""
    return answer(await _service(request).delete(caller_of(request), assistant_id))
