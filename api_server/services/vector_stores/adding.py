"""Puts files into vector stores: a row and a job for each, in one transaction."""

import secrets
from collections.abc import Sequence

import msgspec

from api_server.errors import InvalidRequestError, NotFoundError, StorageFullError
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import InlineStore
from api_server.schemas.ids import new_id
from api_server.schemas.vector_stores import NewStoreFile
from api_server.services.jobs.waiting import step_of
from api_server.services.vector_stores.objects import chunking_json
from api_server.services.vector_stores.reading import check_chunking
from api_server.stores.jobs import JobStore, NewJob
from api_server.stores.owned import missing_files
from api_server.stores.postgres import Connection
from api_server.stores.vector_store_files import (
    NewFile,
    add_files,
    count_chunks,
    count_files,
    files_there,
    insert_batch,
)
from api_server.stores.vector_stores import hold_store, insert_store, touch_stores

MOST_FILES = 10_000
REQUEST_TYPE = "ingest"


class Adding:
    """`model` is the embedding model's id. Implements `assistants.seams.VectorStores`.

    Everything is a part of the caller's transaction.
    """

    def __init__(
        self, jobs: JobStore, model: str, *, ingest_seconds: float, app_chunks: int
    ) -> None:
        self._jobs = jobs
        self._model = model
        self._ingest_seconds = ingest_seconds
        self._app_chunks = app_chunks

    async def make(
        self,
        connection: Connection,
        caller: Caller,
        wish: InlineStore,
        *,
        user: str | None,
        expires_after_days: int | None,
    ) -> str:
        """A vector store for an assistant or a thread; its id. Raises `InvalidRequestError`."""
        chunking = check_chunking(wish.chunking_strategy)
        vector_store_id = new_id("vs")
        await insert_store(
            *(connection, caller.app.id, vector_store_id),
            name="",
            description=None,
            metadata=msgspec.json.encode(wish.metadata or {}).decode(),
            expires_after_days=expires_after_days,
            user=user,
        )
        files = [NewStoreFile(id_, None, chunking) for id_ in dict.fromkeys(wish.file_ids)]
        await self.put(connection, caller, vector_store_id, files)
        return vector_store_id

    async def add(
        self, connection: Connection, caller: Caller, vector_store_id: str, file_ids: Sequence[str]
    ) -> None:
        """Files of the caller; one that is in it already stays as it is."""
        there = await files_there(connection, caller.app.id, vector_store_id, file_ids)
        files = [NewStoreFile(id_) for id_ in dict.fromkeys(file_ids) if id_ not in there]
        await self.put(connection, caller, vector_store_id, files)

    async def put(
        self,
        connection: Connection,
        caller: Caller,
        vector_store_id: str,
        files: Sequence[NewStoreFile],
        *,
        as_batch: bool = False,
        named: str = "file_ids",
    ) -> str | None:
        """Files that are in it already are taken in anew; `named` is the field that names them. The
        id of the batch, if it is one.

        Raises `NotFoundError` for a store or a file that the caller does not have,
        `InvalidRequestError` for a store that has expired or would be too full, and
        `StorageFullError`: whoever takes files in looks at that again.
        """
        app_id = caller.app.id
        is_expired = await hold_store(connection, app_id, caller.user, vector_store_id)
        if is_expired is None:
            raise NotFoundError.of("vector store", vector_store_id)
        if is_expired:
            raise expired_error(vector_store_id)
        if not files:
            return None
        ids = [each.file_id for each in files]
        missing = await missing_files(connection, app_id, caller.user, ids)
        if missing:
            raise NotFoundError.of("file", missing[0], named)
        if await count_files(connection, vector_store_id) + len(files) > MOST_FILES:
            raise InvalidRequestError(f"A vector store holds {MOST_FILES} files at most.")
        if await count_chunks(connection, app_id) >= self._app_chunks:
            raise StorageFullError(
                f"All vector stores of the app together have {self._app_chunks} chunks or more, "
                "which is the most. Take some files out."
            )
        batch_id = new_id("vsfb") if as_batch else None
        if batch_id is not None:
            await insert_batch(connection, app_id, vector_store_id, batch_id)
        rows = [_new_file(each) for each in files]
        await add_files(connection, app_id, vector_store_id, rows, batch_id)
        jobs = [self._job(caller, vector_store_id, row, n) for n, row in enumerate(rows)]
        await self._jobs.enqueue(connection, jobs, timeout_seconds=self._ingest_seconds)
        await touch_stores(connection, app_id, [vector_store_id])
        return batch_id

    def _job(self, caller: Caller, vector_store_id: str, row: NewFile, number: int) -> NewJob:
        told = {
            "vector_store_id": vector_store_id,
            "file_id": row.file_id,
            "generation": row.generation,
        }
        return NewJob(
            id=row.job_id,
            app_id=caller.app.id,
            user=None,
            request_type=REQUEST_TYPE,
            chat=msgspec.json.encode(told).decode(),
            model=self._model,
            priority="batch",
            step=step_of(caller.app.policy.weight, "batch"),
            digest=b"",
            item=number,
        )


def expired_error(vector_store_id: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The vector store {vector_store_id} has expired: make a new one with its files."
    )


def _new_file(wanted: NewStoreFile) -> NewFile:
    return NewFile(
        file_id=wanted.file_id,
        chunking=chunking_json(wanted.chunking_strategy),
        attributes=msgspec.json.encode(wanted.attributes or {}).decode(),
        job_id=f"job_{secrets.token_urlsafe(24)}",
        generation=secrets.token_hex(8),
    )
