"""Files that come in parts: begun, completed from parts in an order, or given up after an hour."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from api_server.errors import (
    BodyTooLargeError,
    InvalidRequestError,
    NotFoundError,
    StorageFullError,
)
from api_server.schemas.apps import Caller
from api_server.schemas.ids import new_id
from api_server.services.files.reading import content_of
from api_server.services.files.rules import lifetime
from api_server.services.files.service import FileService, Told, new_file_id
from api_server.services.files.writing import Bound, PieceWriter, Written
from api_server.stores.files import FileRefusedError, NewFile, StoredFile
from api_server.stores.uploads import (
    NewPart,
    Part,
    Upload,
    UploadStateError,
    UploadStore,
)

UPLOAD_SECONDS = 3600.0
MOST_PART_BYTES = 64 * 1024 * 1024
TIMES = 2
"""All parts together may be so many times as long as the file: clients send one again where they
had no answer.
"""


class UploadService:
    """Methods raise `DependencyDownError` where PostgreSQL or the object store is away."""

    def __init__(self, store: UploadStore, files: FileService) -> None:
        self._store = store
        self._files = files

    async def create(self, caller: Caller, told: Told, size: int) -> Upload:
        """Begin an upload of so many bytes, which count from now on. Raises `ApiError`."""
        if size > self._files.rules.max_file_bytes:
            raise self._files.too_large()
        try:
            return await self._store.add(
                *(new_id("upload"), caller.app.id, caller.user),
                *(told.filename, told.purpose, told.content_type),
                size=size,
                seconds=UPLOAD_SECONDS,
                file_seconds=told.expires_seconds,
                app_bytes=self._files.rules.app_bytes,
            )
        except FileRefusedError as exc:
            raise self._files.refused(exc, "") from exc

    async def pending(self, caller: Caller, upload_id: str) -> Upload:
        """One that takes parts. Raises `NotFoundError`, `InvalidRequestError`."""
        upload = await self._found(caller, upload_id)
        if upload.status != "pending":
            raise _ended(upload)
        return upload

    def writing_part(self, upload: Upload) -> AbstractAsyncContextManager[PieceWriter]:
        """For the content of a part."""
        most = Bound(MOST_PART_BYTES, _part_too_large)
        return self._files.writing(upload.app_id, most)

    async def add_part(self, upload: Upload, written: Written) -> Part:
        """Make a part of what was written. Raises `ApiError`."""
        if not written.size:
            raise InvalidRequestError("data: is empty.", param="data")
        new = NewPart(new_id("part"), written.pieces, written.size, written.digest)
        most = TIMES * upload.size + MOST_PART_BYTES
        try:
            return await self._store.add_part(upload, new, most_bytes=most)
        except UploadStateError as exc:
            raise _ended(exc.upload) from exc
        except FileRefusedError as exc:
            if exc.reason == "full":
                raise StorageFullError(
                    f"The parts of {upload.id} would have more than {most} bytes, and the file is "
                    f"to have {upload.size}."
                ) from exc
            await self._store.loose.doom_again(upload.app_id, written.names)
            raise self._files.refused(exc, upload.id) from exc

    async def complete(
        self, caller: Caller, upload_id: str, part_ids: Sequence[str], md5: str | None
    ) -> tuple[Upload, StoredFile | None]:
        """Make a file of these parts in this order; the same once more gives the same file.

        With `md5` all of it is read once. Raises `ApiError`.
        """
        upload = await self._found(caller, upload_id)
        if upload.status == "completed":
            return await self._completed(upload, part_ids)
        if upload.status != "pending":
            raise _ended(upload)
        known = await self._store.parts(upload)
        try:
            parts = chosen(upload, known, part_ids)
        except InvalidRequestError:  # somebody else may have completed it meanwhile
            upload = await self._found(caller, upload_id)
            if upload.status == "completed":
                return await self._completed(upload, part_ids)
            raise
        if md5 is not None:
            await self._check(parts, upload.size, md5)
        expires_seconds = upload.file_expires_after_seconds
        new = NewFile(
            id=new_file_id(),
            app_id=upload.app_id,
            user=upload.user,
            filename=upload.filename,
            purpose=upload.purpose,
            content_type=upload.content_type,
            size=upload.size,
            digest=digest_of(parts),
            expires_seconds=lifetime(upload.purpose, expires_seconds),
        )
        try:
            return await self._store.complete(upload, parts, new)
        except UploadStateError as exc:
            if exc.upload.status == "completed":
                return await self._completed(exc.upload, part_ids)
            raise _ended(exc.upload) from exc

    async def cancel(self, caller: Caller, upload_id: str) -> Upload:
        """Raises `NotFoundError`, and `InvalidRequestError` where it has ended otherwise."""
        upload = await self._found(caller, upload_id)
        try:
            return await self._store.cancel(upload)
        except UploadStateError as exc:
            if exc.upload.status == "cancelled":
                return exc.upload
            raise _ended(exc.upload) from exc

    async def _completed(
        self, upload: Upload, part_ids: Sequence[str]
    ) -> tuple[Upload, StoredFile | None]:
        """An answer that was lost is given again."""
        if upload.part_ids != tuple(part_ids):
            raise _ended(upload)
        return upload, await self._files.found(upload.app_id, upload.user, upload.file_id or "")

    async def _found(self, caller: Caller, upload_id: str) -> Upload:
        upload = None
        if "\0" not in upload_id:
            upload = await self._store.find(caller.app.id, caller.user, upload_id)
        if upload is None:
            raise NotFoundError.of("upload", upload_id)
        return upload

    async def _check(self, parts: Sequence[Part], size: int, md5: str) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        pieces = [piece for part in parts for piece in part.pieces]
        async for chunk in content_of(self._files.bucket, pieces, 0, size):
            digest.update(chunk)
        if digest.hexdigest() != md5.lower():
            raise InvalidRequestError(
                f"md5: the parts in this order have {digest.hexdigest()}, not {md5[:64]!r}.",
                param="md5",
            )


def chosen(upload: Upload, known: dict[str, Part], part_ids: Sequence[str]) -> list[Part]:
    """The parts of a file in order. Raises `InvalidRequestError`. Pure."""
    missing = [each for each in part_ids if each not in known]
    if missing:
        raise InvalidRequestError(
            f"part_ids: {upload.id} has no part {missing[0][:100]!r}.", param="part_ids"
        )
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequestError("part_ids: one part is there twice.", param="part_ids")
    parts = [known[each] for each in part_ids]
    size = sum(part.size for part in parts)
    if size != upload.size:
        raise InvalidRequestError(
            f"part_ids: these parts have {size} bytes, and the upload was begun for {upload.size}.",
            param="part_ids",
        )
    return parts


def digest_of(parts: Sequence[Part]) -> bytes:
    """What names the content: SHA-256 of the only part, else of the parts' SHA-256s. Pure."""
    if len(parts) == 1:
        return parts[0].digest
    return hashlib.sha256(b"".join(part.digest for part in parts)).digest()


def _part_too_large() -> BodyTooLargeError:
    return BodyTooLargeError(f"A part has at most {MOST_PART_BYTES} bytes; send more parts.")


def _ended(upload: Upload) -> InvalidRequestError:
    return InvalidRequestError(
        f"The upload {upload.id} is {upload.status}: it takes no parts and cannot be changed."
    )
