"""`/v1/uploads`: files that come in parts (docs/files.md)."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request, Response

from api_server.routes.files import files_of
from api_server.routes.multipart import form_events
from api_server.routes.stored import answer, body_of, caller_of, takes
from api_server.services.files.answers import part_answer, upload_answer
from api_server.services.files.forms import receive
from api_server.services.files.rules import (
    ExpiresAfter,
    check_purpose,
    check_type,
    safe_name,
    type_of,
)
from api_server.services.files.service import Told
from api_server.services.files.uploads import MOST_PART_BYTES
from api_server.services.reading import read_json

router = APIRouter(tags=["uploads"])

MOST_PARTS = 10_000


class NewUpload(msgspec.Struct, forbid_unknown_fields=True):
    """What is going to come."""

    filename: Annotated[str, msgspec.Meta(min_length=1)]
    purpose: str
    bytes: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    mime_type: str
    expires_after: ExpiresAfter | None = None


class Completion(msgspec.Struct, forbid_unknown_fields=True):
    """Which parts make the file, in order."""

    part_ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_PARTS)]
    md5: str | None = None


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}

_NEW = msgspec.json.Decoder(NewUpload)
_COMPLETION = msgspec.json.Decoder(Completion)


@router.post("/v1/uploads", openapi_extra=takes(NewUpload))
async def create(request: Request) -> Response:
    """Begin an upload: it takes parts for an hour."""
    uploads = files_of(request).uploads
    body = read_json(await body_of(request), _NEW)
    filename, purpose = safe_name(body.filename), check_purpose(body.purpose)
    check_type(purpose, filename, "filename")
    told = Told(
        filename=filename,
        purpose=purpose,
        content_type=type_of(body.mime_type, filename),
        expires_seconds=body.expires_after.checked() if body.expires_after else None,
    )
    return answer(upload_answer(await uploads.create(caller_of(request), told, body.bytes)))


@router.post("/v1/uploads/{upload_id}/parts", openapi_extra=FORM)
async def add_part(upload_id: str, request: Request) -> Response:
    """Add a part, of 64 MiB at most. Parts may come at the same time, in any order."""
    files = files_of(request)
    upload = await files.uploads.pending(caller_of(request), upload_id)
    async with files.uploads.writing_part(upload) as writer:
        events = form_events(
            request.scope,
            request.receive,
            most_bytes=MOST_PART_BYTES,
            stall_seconds=files.service.rules.stall_seconds,
        )
        await receive(events, writer, "data")
        return answer(part_answer(await files.uploads.add_part(upload, await writer.finish())))


@router.post("/v1/uploads/{upload_id}/complete", openapi_extra=takes(Completion))
async def complete(upload_id: str, request: Request) -> Response:
    """Make a file of parts. The same once more answers with the same file."""
    uploads = files_of(request).uploads
    body = read_json(await body_of(request), _COMPLETION)
    upload, file = await uploads.complete(
        caller_of(request), upload_id, body.part_ids, body.md5 or None
    )
    return answer(upload_answer(upload, file))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel(upload_id: str, request: Request) -> Response:
    """Give an upload up, and all of its parts."""
    return answer(
        upload_answer(await files_of(request).uploads.cancel(caller_of(request), upload_id))
    )
