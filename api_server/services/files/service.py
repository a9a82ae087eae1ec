"""Keeps files: takes them in, finds, lists, reads and deletes them.

An app sees its own only, and an end user what that user brought.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from api_server.errors import (
    ApiError,
    BodyTimeoutError,
    BodyTooLargeError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    ObjectMissingError,
    StorageFullError,
)
from api_server.schemas.apps import Caller
from api_server.schemas.ids import new_id
from api_server.schemas.paging import Page
from api_server.services.files.bucket import Bucket
from api_server.services.files.reading import content_of
from api_server.services.files.rules import lifetime
from api_server.services.files.writing import Bound, PieceWriter, Written
from api_server.stores.files import FileRefusedError, FileStore, NewFile, StoredFile


@dataclass(frozen=True)
class FileRules:
    """Of the settings, `files`."""

    max_file_bytes: int
    app_bytes: int
    stall_seconds: float
    sweep_seconds: float
    loose_seconds: float


@dataclass(frozen=True)
class Told:
    """What is said of a file beside its content; checked already."""

    filename: str
    purpose: str
    content_type: str
    expires_seconds: int | None = None
    id: str | None = None
    created_at: datetime | None = None


class FileService:
    """Methods raise `DependencyDownError` where PostgreSQL or the object store is away."""

    def __init__(self, store: FileStore, bucket: Bucket, rules: FileRules) -> None:
        self.rules = rules
        self._store = store
        self.bucket = bucket

    async def find(self, caller: Caller, file_id: str) -> StoredFile:
        """Raises `NotFoundError` where the caller has no such file."""
        file = await self.found(caller.app.id, caller.user, file_id)
        if file is None:
            raise NotFoundError.of("file", file_id)
        return file

    async def found(self, app_id: str, user: str | None, file_id: str) -> StoredFile | None:
        """The same for who asks otherwise."""
        return None if "\0" in file_id else await self._store.find(app_id, user, file_id)

    async def listed(
        self, caller: Caller, purpose: str | None, page: Page
    ) -> tuple[list[StoredFile], bool]:
        """A page of the caller's files, of one purpose or of all, and whether the list goes on."""
        if purpose is not None and "\0" in purpose:
            return [], False
        return await self._store.listed(caller.app.id, caller.user, purpose, page)

    async def delete(self, caller: Caller, file_id: str) -> None:
        """It is gone when this returns; its content and its chunks soon. Raises `NotFoundError`."""
        is_one = "\0" not in file_id
        if not is_one or not await self._store.delete(caller.app.id, caller.user, file_id):
            raise NotFoundError.of("file", file_id)

    async def store(
        self,
        app_id: str,
        filename: str,
        purpose: str,
        content_type: str,
        chunks: AsyncIterator[bytes],
        *,
        id_: str | None = None,
        created_at: datetime | None = None,
    ) -> StoredFile:
        """Keep a file of the app itself; nothing of it stays where that fails.

        Raises `InvalidRequestError` where there is no content or the id is taken, and
        `BodyTooLargeError`, `StorageFullError`.
        """
        told = Told(filename, purpose, content_type, id=id_, created_at=created_at)
        async with self.writing(app_id) as writer:
            async for chunk in chunks:
                await writer.write(chunk)
            return await self.keep(app_id, None, told, await writer.finish())

    async def copy_to(self, app_id: str, file_id: str, path: Path, *, max_bytes: int) -> StoredFile:
        """Write the content to a new local file.

        Raises `NotFoundError`, and `BodyTooLargeError` before anything is read. What is at `path`
        after an error is not the file.
        """
        file = await self.found(app_id, None, file_id)
        if file is None:
            raise NotFoundError.of("file", file_id)
        if file.size > max_bytes:
            raise BodyTooLargeError(
                f"The file {file.id} has {file.size} bytes; at most {max_bytes} can be read here."
            )
        with await asyncio.to_thread(path.open, "wb") as out:
            await self._copy(file, out)
        return file

    async def read(self, file: StoredFile, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to `end`, without that one, in pieces of a MiB at most.

        Raises `NotFoundError` where it was deleted meanwhile.
        """
        pieces = await self._store.pieces(file)
        try:
            async for chunk in content_of(self.bucket, pieces, start, end):
                yield chunk
        except ObjectMissingError as exc:
            if await self.found(file.app_id, None, file.id) is None:
                raise NotFoundError.of("file", file.id) from exc
            raise InternalError(
                f"The content of the file {file.id} is not in the object store any more."
            ) from exc

    @asynccontextmanager
    async def writing(self, app_id: str, *bounds: Bound) -> AsyncIterator[PieceWriter]:
        """For content of the app; what is not kept at the end of this is given up.

        Raises `StorageFullError` where the app has no room at all. Without `bounds` it is those of
        a file.
        """
        if not bounds:
            room = self.rules.app_bytes - await self._store.taken_bytes(app_id)
            if room <= 0:
                raise self.full()
            bounds = (
                Bound(self.rules.max_file_bytes, self.too_large),
                Bound(room, self.full),
            )
        writer = PieceWriter(
            self.bucket,
            self._store.loose,
            app_id,
            *bounds,
            loose_seconds=self.rules.loose_seconds,
        )
        try:
            yield writer
        except BaseException:
            with contextlib.suppress(ApiError):  # the first error is the one to tell
                await writer.give_up()
            raise

    async def keep(self, app_id: str, user: str | None, told: Told, written: Written) -> StoredFile:
        """Make a file of what was written; `user` is the end user who brought it."""
        if not written.size:
            raise InvalidRequestError("file: is empty.", param="file")
        new = NewFile(
            id=told.id or new_file_id(),
            app_id=app_id,
            user=user,
            filename=told.filename,
            purpose=told.purpose,
            content_type=told.content_type,
            size=written.size,
            digest=written.digest,
            created_at=told.created_at,
            expires_seconds=lifetime(told.purpose, told.expires_seconds),
        )
        try:
            return await self._store.add(new, written.pieces, app_bytes=self.rules.app_bytes)
        except FileRefusedError as exc:
            if exc.reason == "given_up":
                await self._store.loose.doom_again(app_id, written.names)
            raise self.refused(exc, new.id) from exc

    def refused(self, exc: FileRefusedError, file_id: str) -> ApiError:
        """What a client is told of it."""
        if exc.reason == "full":
            return self.full()
        if exc.reason == "taken":
            return InvalidRequestError(f"There is a file with the id {file_id[:100]!r} already.")
        return BodyTimeoutError("The content came so slowly that it was given up. Send it again.")

    def too_large(self) -> ApiError:
        return BodyTooLargeError(f"The file is larger than {self.rules.max_file_bytes} bytes.")

    def full(self) -> ApiError:
        return StorageFullError(
            f"All files of the app together may have {self.rules.app_bytes} bytes, and with this "
            "one they would have more. Delete some."
        )

    async def _copy(self, file: StoredFile, out: IO[bytes]) -> None:
        async for chunk in self.read(file, 0, file.size):
            await asyncio.to_thread(out.write, chunk)


def new_file_id() -> str:
    """As OpenAI's are, with a hyphen."""
    return new_id("file").replace("_", "-", 1)
