"""Rows of uploads and their parts. What changes one locks its row first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from api_server.stores.files import (
    FileRefusedError,
    NewFile,
    Piece,
    StoredFile,
    give_bytes,
    insert,
    take_bytes,
)
from api_server.stores.loose_objects import LooseObjects
from api_server.stores.postgres import Connection, Postgres, Row, queries

_SQL = queries("uploads")
ENDED_AT_ONCE = 100

Status = Literal["pending", "completed", "cancelled", "expired"]


@dataclass(frozen=True)
class Upload:
    """One upload. `part_ids` are those it was completed with, in order; `user` is the end user who
    began it.
    """

    id: str
    app_id: str
    user: str | None
    created_at: datetime
    status: Status
    filename: str
    purpose: str
    content_type: str
    size: int
    expires_at: datetime
    file_id: str | None
    part_ids: tuple[str, ...] | None
    file_expires_after_seconds: int | None


@dataclass(frozen=True)
class Part:
    """One part of an upload; `digest` is the SHA-256 of its content."""

    id: str
    upload_id: str
    created_at: datetime
    pieces: tuple[Piece, ...]
    size: int
    digest: bytes


@dataclass(frozen=True)
class NewPart:
    """Content of a part, which lies in loose objects."""

    id: str
    pieces: Sequence[Piece]
    size: int
    digest: bytes


class UploadStateError(Exception):
    """The upload is in a state in which this cannot be done."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(upload.status)
        self.upload = upload


class UploadStore:
    """Methods raise `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self.loose = LooseObjects(postgres)
        self._postgres = postgres

    async def add(
        self,
        upload_id: str,
        app_id: str,
        user: str | None,
        *told: object,
        size: int,
        seconds: float,
        file_seconds: int | None,
        app_bytes: int,
    ) -> Upload:
        """Begin one; its bytes count at once. `told`: its name, purpose and type.

        Raises `FileRefusedError`.
        """

        async def work(connection: Connection) -> Upload:
            if not await take_bytes(connection, app_id, size, app_bytes):
                raise FileRefusedError("full")
            row = await connection.fetchrow(
                _SQL["add"], upload_id, app_id, user, *told, size, seconds, file_seconds
            )
            assert row is not None, "an insert returns its row"
            return _upload(row)

        return await self._postgres.transaction(work)

    async def find(self, app_id: str, user: str | None, upload_id: str) -> Upload | None:
        """`user` None sees every upload of the app."""
        row = await self._postgres.fetchrow(_SQL["find"], app_id, user, upload_id)
        return _upload(row) if row is not None else None

    async def parts(self, upload: Upload) -> dict[str, Part]:
        """By id."""
        rows = await self._postgres.fetch(_SQL["parts"], upload.id)
        return {row["id"]: _part(row) for row in rows}

    async def add_part(self, upload: Upload, new: NewPart, *, most_bytes: int) -> Part:
        """Raises `UploadStateError`; `FileRefusedError` where its objects were given up
        (`given_up`), or all parts together are more than `most_bytes` (`full`).
        """

        async def work(connection: Connection) -> Part:
            await _lock(connection, upload)
            if not await self.loose.tie(connection, [piece.name for piece in new.pieces]):
                raise FileRefusedError("given_up")
            if await connection.fetchval(_SQL["part_bytes"], upload.id) + new.size > most_bytes:
                raise FileRefusedError("full")
            row = await connection.fetchrow(
                _SQL["add_part"],
                *(new.id, upload.id, [piece.name for piece in new.pieces]),
                *([piece.size for piece in new.pieces], new.size, new.digest),
            )
            assert row is not None, "an insert returns its row"
            return _part(row)

        return await self._postgres.transaction(work)

    async def complete(
        self, upload: Upload, parts: Sequence[Part], new: NewFile
    ) -> tuple[Upload, StoredFile]:
        """Make a file of these parts and remove the others. Raises `UploadStateError`."""
        part_ids = [part.id for part in parts]

        async def work(connection: Connection) -> tuple[Upload, StoredFile]:
            await _lock(connection, upload)
            file = await insert(connection, new, [each for part in parts for each in part.pieces])
            await self._end_parts(connection, [upload.id], part_ids)
            row = await connection.fetchrow(_SQL["end"], upload.id, "completed", file.id, part_ids)
            assert row is not None, "it is locked"
            return _upload(row), file

        return await self._postgres.transaction(work)

    async def cancel(self, upload: Upload) -> Upload:
        """Raises `UploadStateError`."""

        async def work(connection: Connection) -> Upload:
            await _lock(connection, upload)
            await self._end_parts(connection, [upload.id], [])
            await give_bytes(connection, [upload.app_id], [upload.size])
            row = await connection.fetchrow(_SQL["end"], upload.id, "cancelled", None, None)
            assert row is not None, "it is locked"
            return _upload(row)

        return await self._postgres.transaction(work)

    async def end_late(self, *, forget_seconds: float) -> int:
        """Uploads whose time is over; returns how many. Those that ended long ago are forgotten."""

        async def work(connection: Connection) -> int:
            if not await connection.fetchval(_SQL["in_turn"]):
                return 0
            rows = await connection.fetch(_SQL["lock_late"], ENDED_AT_ONCE)
            ids = [row["id"] for row in rows]
            if ids:
                await self._end_parts(connection, ids, [])
                await connection.execute(_SQL["end_late"], ids)
                await give_bytes(
                    connection, [row["app_id"] for row in rows], [row["bytes"] for row in rows]
                )
            await connection.execute(_SQL["forget_old"], forget_seconds)
            return len(ids)

        return await self._postgres.transaction(work)

    async def _end_parts(
        self, connection: Connection, upload_ids: Sequence[str], kept: Sequence[str]
    ) -> None:
        await connection.execute(_SQL["doom_parts"], list(upload_ids), list(kept))
        await connection.execute(_SQL["forget_parts"], list(upload_ids))


async def _lock(connection: Connection, upload: Upload) -> None:
    """Until the end of the transaction nobody else changes it. Raises `UploadStateError`."""
    row = await connection.fetchrow(_SQL["lock"], upload.app_id, upload.id)
    now = _upload(row) if row is not None else upload
    if row is None or now.status != "pending":
        raise UploadStateError(now)


def _upload(row: Row) -> Upload:
    fields = dict(row)
    if fields.pop("is_late", False) and fields["status"] == "pending":
        fields["status"] = "expired"
    part_ids = fields.pop("part_ids")
    return Upload(
        size=fields.pop("bytes"),
        user=fields.pop("user_name"),
        part_ids=tuple(part_ids) if part_ids is not None else None,
        **fields,
    )


def _part(row: Row) -> Part:
    fields = dict(row)
    pieces = zip(fields.pop("objects"), fields.pop("sizes"), strict=True)
    return Part(size=fields.pop("bytes"), pieces=tuple(Piece(*each) for each in pieces), **fields)
