"""`/v1/files`: contents that are kept (docs/files.md)."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api_server.errors import NotSetUpError
from api_server.routes.contents import ContentAnswer
from api_server.routes.multipart import form_events
from api_server.routes.stored import answer, caller_of, page_of
from api_server.schemas.paging import list_answer
from api_server.services.files.answers import content_headers, file_answer
from api_server.services.files.forms import receive
from api_server.services.files.ranges import byte_range, names_it
from api_server.services.files.room import Files
from api_server.services.files.rules import (
    FIELDS,
    check_purpose,
    check_type,
    expires_after_of,
    safe_name,
    type_of,
)
from api_server.services.files.service import Told

router = APIRouter(tags=["files"])

MOST_LISTED = 10_000
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string"},
                    },
                }
            }
        },
    }
}


_BYTES = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: _BYTES,
    206: {"description": "The range"} | _BYTES,
    304: {"description": "As it was"},
}


def files_of(request: Request) -> Files:
    """Raises `NotSetUpError` where there is nowhere to keep files."""
    files: Files | None = request.app.state.files
    if files is None:
        raise NotSetUpError(
            "an object store",
            "Files are kept in PostgreSQL and in an object store: set POSTGRES_URL, S3_URL, "
            "S3_ACCESS_KEY and S3_SECRET_KEY.",
        )
    return files


@router.post("/v1/files", openapi_extra=FORM)
async def create(request: Request) -> Response:
    """Keep a file. Its fields may come in any order; the content is never held in memory."""
    service, caller = files_of(request).service, caller_of(request)
    rules = service.rules
    async with service.writing(caller.app.id) as writer:
        events = form_events(
            request.scope,
            request.receive,
            most_bytes=rules.max_file_bytes,
            stall_seconds=rules.stall_seconds,
        )
        form = await receive(events, writer, "file", FIELDS)
        assert form.file is not None, "receive saw to it"
        filename, purpose = safe_name(form.file.filename), check_purpose(form.fields.get("purpose"))
        check_type(purpose, filename)
        told = Told(
            filename=filename,
            purpose=purpose,
            content_type=type_of(form.file.content_type, filename),
            expires_seconds=expires_after_of(form.fields),
        )
        written = await writer.finish()
        return answer(file_answer(await service.keep(caller.app.id, caller.user, told, written)))


@router.get("/v1/files")
async def listed(request: Request) -> Response:
    """The caller's files, newest first; `purpose` leaves the others out."""
    page = page_of(request, usual=MOST_LISTED, most=MOST_LISTED)
    purpose = request.query_params.get("purpose") or None
    files, has_more = await files_of(request).service.listed(caller_of(request), purpose, page)
    return answer(list_answer([file_answer(file) for file in files], has_more=has_more))


@router.get("/v1/files/{file_id}")
async def retrieve(file_id: str, request: Request) -> Response:
    """One file, without its content."""
    return answer(file_answer(await files_of(request).service.find(caller_of(request), file_id)))


@router.delete("/v1/files/{file_id}")
async def delete(file_id: str, request: Request) -> Response:
    """Delete a file, its content, and what vector stores have of it."""
    await files_of(request).service.delete(caller_of(request), file_id)
    return answer({"id": file_id, "object": "file", "deleted": True})


@router.get("/v1/files/{file_id}/content", response_class=Response, responses=CONTENT)
async def content(file_id: str, request: Request) -> Response:
    """The content, or the range that is asked for."""
    service = files_of(request).service
    file = await service.find(caller_of(request), file_id)
    etag = f'"{file.digest.hex()}"'
    headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "private, no-cache"}
    asked = request.headers
    if names_it(asked.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if_range = asked.get("if-range")
    wanted = None
    if if_range is None or if_range.strip() == etag:
        wanted = byte_range(asked.get("range"), file.size)
    start, end = wanted or (0, file.size)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{file.size}"
    return ContentAnswer(
        service.read(file, start, end),
        end - start,
        headers | content_headers(file),
        status=200 if wanted is None else 206,
        stall_seconds=service.rules.stall_seconds,
    )
