"""Rows of files and of what they consist of. Contents are in the object store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from api_server.schemas.paging import Page
from api_server.stores.loose_objects import LooseObjects
from api_server.stores.paging import page_of
from api_server.stores.postgres import Connection, Postgres, Row, queries

_SQL = queries("files")
EXPIRED_AT_ONCE = 100


@dataclass(frozen=True)
class StoredFile:
    """One file, of `size` bytes. `digest` is the SHA-256 of its content; where that came in several
    parts, of their SHA-256s.
    """

    id: str
    app_id: str
    created_at: datetime
    filename: str
    purpose: str
    content_type: str
    size: int
    digest: bytes
    expires_at: datetime | None


@dataclass(frozen=True)
class NewFile:
    """One to be kept. `created_at` None: now; it lives for `expires_seconds`, None: for ever."""

    id: str
    app_id: str
    filename: str
    purpose: str
    content_type: str
    size: int
    digest: bytes
    created_at: datetime | None = None
    expires_seconds: float | None = None


@dataclass(frozen=True)
class Piece:
    """One object of a file."""

    name: str
    size: int


class FileRefusedError(Exception):
    """A file cannot be kept; `reason` is `full`, `taken` (its id) or `given_up` (its objects)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FileStore:
    """Methods raise `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self.loose = LooseObjects(postgres)
        self._postgres = postgres

    async def find(self, app_id: str, file_id: str) -> StoredFile | None:
        """One that has not expired."""
        row = await self._postgres.fetchrow(_SQL["find"], app_id, file_id)
        return stored(row) if row is not None else None

    async def find_any(self, app_id: str, file_ids: Sequence[str]) -> dict[str, StoredFile]:
        """Those that there are, by id."""
        rows = await self._postgres.fetch(_SQL["find_any"], app_id, list(file_ids))
        return {row["id"]: stored(row) for row in rows}

    async def listed(
        self, app_id: str, purpose: str | None, page: Page
    ) -> tuple[list[StoredFile], bool]:
        """A page, and whether the list goes on."""
        rows, has_more = await page_of(self._postgres, _SQL, "files", (app_id, purpose), page)
        return [stored(row) for row in rows], has_more

    async def pieces(self, file: StoredFile) -> list[Piece]:
        """What it consists of, in order."""
        rows = await self._postgres.fetch(_SQL["pieces"], file.app_id, file.id)
        return [Piece(row["object"], row["bytes"]) for row in rows]

    async def taken_bytes(self, app_id: str) -> int:
        """What the app's files take."""
        row = await self._postgres.fetchrow(_SQL["taken_bytes"], app_id)
        return row["bytes"] if row is not None else 0

    async def add(self, new: NewFile, pieces: Sequence[Piece], *, app_bytes: int) -> StoredFile:
        """Make a file of loose objects. Raises `FileRefusedError`."""

        async def work(connection: Connection) -> StoredFile:
            if not await self.loose.tie(connection, [piece.name for piece in pieces]):
                raise FileRefusedError("given_up")
            if not await take_bytes(connection, new.app_id, new.size, app_bytes):
                raise FileRefusedError("full")
            return await insert(connection, new, pieces)

        return await self._postgres.transaction(work)

    async def delete(self, app_id: str, file_id: str) -> bool:
        """Take a file out of everything; says whether it was there."""

        async def work(connection: Connection) -> bool:
            row = await connection.fetchrow(_SQL["lock_file"], app_id, file_id)
            if row is None:
                return False
            await _forget(connection, [file_id], [app_id], [row["bytes"]])
            return True

        return await self._postgres.transaction(work)

    async def delete_expired(self) -> int:
        """The same with files whose time is over; returns how many there were."""

        async def work(connection: Connection) -> int:
            if not await connection.fetchval(_SQL["in_turn"]):
                return 0
            rows = await connection.fetch(_SQL["lock_expired"], EXPIRED_AT_ONCE)
            if rows:
                columns = ([row[name] for row in rows] for name in ("id", "app_id", "bytes"))
                await _forget(connection, *columns)
            return len(rows)

        return await self._postgres.transaction(work)


async def take_bytes(connection: Connection, app_id: str, count: int, most: int) -> bool:
    """Count bytes to an app; False, and nothing is changed, where that is more than it may have."""
    return await connection.fetchval(_SQL["take_bytes"], app_id, count, most) is not None


async def give_bytes(connection: Connection, app_ids: Sequence[str], counts: Sequence[int]) -> None:
    """Count them no more."""
    await connection.execute(_SQL["give_bytes"], list(app_ids), list(counts))


async def insert(connection: Connection, new: NewFile, pieces: Sequence[Piece]) -> StoredFile:
    """As a part of a transaction that has tied the pieces. Raises `FileRefusedError`."""
    row = await connection.fetchrow(
        _SQL["add_file"],
        *(new.id, new.app_id, new.created_at, new.filename, new.purpose, new.content_type),
        *(new.size, new.digest, new.expires_seconds),
    )
    if row is None:
        raise FileRefusedError("taken")
    names, sizes = [piece.name for piece in pieces], [piece.size for piece in pieces]
    await connection.execute(_SQL["add_pieces"], new.id, names, sizes)
    return stored(row)


async def _forget(
    connection: Connection, ids: Sequence[str], app_ids: Sequence[str], counts: Sequence[int]
) -> None:
    """Of files that are locked, so that no vector store takes one in meanwhile."""
    await connection.execute(_SQL["doom_pieces"], list(ids))
    await connection.execute(_SQL["forget_files"], list(ids))
    await give_bytes(connection, app_ids, counts)


def stored(row: Row) -> StoredFile:
    """A row of `files`. Pure."""
    fields = dict(row)
    del fields["seq"]
    return StoredFile(size=fields.pop("bytes"), **fields)
