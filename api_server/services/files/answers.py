"""Files and uploads as OpenAI's objects. Pure."""

from typing import Any
from urllib.parse import quote

from api_server.stores.files import StoredFile
from api_server.stores.uploads import Part, Upload

Json = dict[str, Any]


def file_answer(file: StoredFile) -> Json:
    """`OpenAIFile`. A file is ready as soon as it is there."""
    answer = {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
    if file.expires_at is not None:
        answer["expires_at"] = int(file.expires_at.timestamp())
    return answer


def upload_answer(upload: Upload, file: StoredFile | None = None) -> Json:
    """`Upload`, with the file that came of it."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size,
        "created_at": int(upload.created_at.timestamp()),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "expires_at": int(upload.expires_at.timestamp()),
        "file": file_answer(file) if file is not None else None,
    }


def part_answer(part: Part) -> Json:
    """`UploadPart`."""
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": part.upload_id,
    }


def content_headers(file: StoredFile) -> dict[str, str]:
    """What a browser is to do with the content: save it, under its name."""
    plain = "".join(each if each.isascii() and each not in '"\\' else "_" for each in file.filename)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file.filename, '')}"
    return {"content-type": file.content_type, "content-disposition": disposition}
