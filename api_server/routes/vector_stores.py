"""`/v1/vector_stores`: files that can be searched (docs/vector-stores.md). They are the app's: no
end user may do anything here, and `_room` sees to it.
"""

from typing import cast

from fastapi import APIRouter, Request, Response

from api_server.errors import NotSetUpError
from api_server.routes.stored import answer, body_of, caller_of, page_of, takes
from api_server.schemas.vector_stores import (
    AttributesChange,
    NewFileBatch,
    NewStoreFile,
    NewVectorStore,
    SearchBody,
    VectorStoreChange,
)
from api_server.services.access.permissions import refuse_end_users
from api_server.services.vector_stores.files import StoreFileService
from api_server.services.vector_stores.room import VectorStores
from api_server.services.vector_stores.service import VectorStoreService

router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])

Lacks = tuple[str, str]
"""What is not set up, and what to do about it."""


def _room(request: Request) -> VectorStores:
    """Raises `NotSetUpError` where something is not set up that they need, `NotAllowedError`."""
    refuse_end_users(caller_of(request), "use vector stores")
    room = request.app.state.vector_stores
    if not isinstance(room, VectorStores):
        raise NotSetUpError(*cast("Lacks", room))
    return room


def _stores(request: Request) -> VectorStoreService:
    return _room(request).stores


def _files(request: Request) -> StoreFileService:
    return _room(request).files


@router.post("", openapi_extra=takes(NewVectorStore, required=False))
async def create_vector_store(request: Request) -> Response:
    """A new vector store, perhaps with files."""
    service = _stores(request)
    return answer(await service.create(caller_of(request), await body_of(request)))


@router.get("")
async def list_vector_stores(request: Request) -> Response:
    """The app's vector stores."""
    return answer(await _stores(request).page(caller_of(request), page_of(request)))


@router.get("/{vector_store_id}")
async def retrieve_vector_store(vector_store_id: str, request: Request) -> Response:
    """One of them."""
    return answer(await _stores(request).retrieve(caller_of(request), vector_store_id))


@router.post("/{vector_store_id}", openapi_extra=takes(VectorStoreChange))
async def modify_vector_store(vector_store_id: str, request: Request) -> Response:
    """Change what the body has; null sets a field back."""
    service, body = _stores(request), await body_of(request)
    return answer(await service.modify(caller_of(request), vector_store_id, body))


@router.delete("/{vector_store_id}")
async def delete_vector_store(vector_store_id: str, request: Request) -> Response:
    """Its files stay."""
    return answer(await _stores(request).delete(caller_of(request), vector_store_id))


@router.post("/{vector_store_id}/search", openapi_extra=takes(SearchBody))
async def search_vector_store(vector_store_id: str, request: Request) -> Response:
    """The passages of its files that are nearest to a question."""
    service, body = _stores(request), await body_of(request)
    return answer(await service.search(caller_of(request), vector_store_id, body))


@router.post("/{vector_store_id}/files", openapi_extra=takes(NewStoreFile))
async def add_file(vector_store_id: str, request: Request) -> Response:
    """Take a file in; it can be searched when its status is completed."""
    service, body = _files(request), await body_of(request)
    return answer(await service.add(caller_of(request), vector_store_id, body))


@router.get("/{vector_store_id}/files")
async def list_files(vector_store_id: str, request: Request) -> Response:
    """Its files; `filter` is a status."""
    service, status = _files(request), request.query_params.get("filter")
    caller, page = caller_of(request), page_of(request)
    return answer(await service.page(caller, vector_store_id, page, status=status))


@router.get("/{vector_store_id}/files/{file_id}")
async def retrieve_file(vector_store_id: str, file_id: str, request: Request) -> Response:
    """One of them."""
    service = _files(request)
    return answer(await service.retrieve(caller_of(request), vector_store_id, file_id))


@router.post("/{vector_store_id}/files/{file_id}", openapi_extra=takes(AttributesChange))
async def change_file(vector_store_id: str, file_id: str, request: Request) -> Response:
    """Give it other attributes."""
    service, body = _files(request), await body_of(request)
    return answer(await service.change(caller_of(request), vector_store_id, file_id, body))


@router.delete("/{vector_store_id}/files/{file_id}")
async def remove_file(vector_store_id: str, file_id: str, request: Request) -> Response:
    """Take it out; the file itself stays."""
    service = _files(request)
    return answer(await service.remove(caller_of(request), vector_store_id, file_id))


@router.get("/{vector_store_id}/files/{file_id}/content")
async def file_content(vector_store_id: str, file_id: str, request: Request) -> Response:
    """The text that was found in it."""
    service = _files(request)
    return answer(await service.content(caller_of(request), vector_store_id, file_id))


@router.post("/{vector_store_id}/file_batches", openapi_extra=takes(NewFileBatch))
async def add_batch(vector_store_id: str, request: Request) -> Response:
    """Take many files in, all of them or none."""
    service, body = _files(request), await body_of(request)
    return answer(await service.add_batch(caller_of(request), vector_store_id, body))


@router.get("/{vector_store_id}/file_batches/{batch_id}")
async def retrieve_batch(vector_store_id: str, batch_id: str, request: Request) -> Response:
    """How far it is."""
    service = _files(request)
    return answer(await service.batch(caller_of(request), vector_store_id, batch_id))


@router.post("/{vector_store_id}/file_batches/{batch_id}/cancel")
async def cancel_batch(vector_store_id: str, batch_id: str, request: Request) -> Response:
    """Stop what is under way of it."""
    service = _files(request)
    return answer(await service.cancel_batch(caller_of(request), vector_store_id, batch_id))


@router.get("/{vector_store_id}/file_batches/{batch_id}/files")
async def list_batch_files(vector_store_id: str, batch_id: str, request: Request) -> Response:
    """Its files; `filter` is a status."""
    service, status = _files(request), request.query_params.get("filter")
    caller, page = caller_of(request), page_of(request)
    return answer(
        await service.page(caller, vector_store_id, page, status=status, batch_id=batch_id)
    )
