"""Files of vector stores, one by one and in batches."""

import asyncio

import msgspec

from api_server.errors import InvalidRequestError, NotFoundError, OverloadedError
from api_server.schemas.apps import Caller
from api_server.schemas.paging import Page, list_answer
from api_server.schemas.vector_stores import AttributesChange, NewFileBatch, NewStoreFile
from api_server.services.assistants.rules import check_id
from api_server.services.vector_stores.adding import Adding
from api_server.services.vector_stores.objects import (
    Json,
    batch_object,
    content_of,
    file_object,
)
from api_server.services.vector_stores.reading import (
    check_chunking,
    check_status,
    files_of,
    read_body,
)
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Connection
from api_server.stores.vector_store_files import (
    Batch,
    StoreFile,
    VectorStoreFileStore,
    cancel_batch,
    find_batch,
    find_file,
    set_attributes,
)
from api_server.stores.vector_stores import hold_store
from api_server.stores.vectors import Vectors

ATTRIBUTES_SECONDS = 10.0
"""To write attributes in both stores."""

CHUNKS_SECONDS = 5.0
"""Of them, at most, for the chunks: a vector database that hangs is no fault of PostgreSQL's."""

CHANGES_AT_ONCE = 2
"""Each holds a connection to PostgreSQL while it waits for the vector database."""

_FILE = msgspec.json.Decoder(NewStoreFile)
_BATCH = msgspec.json.Decoder(NewFileBatch)
_ATTRIBUTES = msgspec.json.Decoder(AttributesChange)


class StoreFileService:
    """Everything that an app does not have is a `NotFoundError`."""

    def __init__(
        self, store: VectorStoreFileStore, adding: Adding, jobs: JobStore, vectors: Vectors
    ) -> None:
        self._store = store
        self._adding = adding
        self._jobs = jobs
        self._vectors = vectors
        self._changing = asyncio.Semaphore(CHANGES_AT_ONCE)

    async def add(self, caller: Caller, vector_store_id: str, body: bytes) -> Json:
        """One that is in it already is taken in anew."""
        asked = read_body(body, _FILE)
        check_id("vector store", vector_store_id)
        check_id("file", asked.file_id)
        check_chunking(asked.chunking_strategy)

        async def work(connection: Connection) -> StoreFile | None:
            put = self._adding.put
            await put(connection, caller, vector_store_id, [asked], named="file_id")
            return await find_file(connection, caller.app.id, vector_store_id, asked.file_id)

        return _told(vector_store_id, await self._store.postgres.transaction(work), asked.file_id)

    async def retrieve(self, caller: Caller, vector_store_id: str, file_id: str) -> Json:
        return file_object(vector_store_id, await self._find(caller, vector_store_id, file_id))

    async def change(self, caller: Caller, vector_store_id: str, file_id: str, body: bytes) -> Json:
        """Give it other attributes, in all of its chunks as well, or in none."""
        attributes = read_body(body, _ATTRIBUTES).attributes or {}
        _check_ids(vector_store_id, file_id)
        app_id, told = caller.app.id, msgspec.json.encode(attributes).decode()

        async def work(connection: Connection) -> StoreFile | None:
            if not await set_attributes(connection, app_id, vector_store_id, file_id, told):
                raise NotFoundError.of("file", file_id)
            await self._vectors.set_attributes(
                app_id, vector_store_id, file_id, attributes, budget_seconds=CHUNKS_SECONDS
            )
            return await find_file(connection, app_id, vector_store_id, file_id)

        try:
            async with asyncio.timeout(ATTRIBUTES_SECONDS):
                await self._changing.acquire()
        except TimeoutError as exc:
            raise OverloadedError(
                "Too many files get other attributes now.", retry_after_seconds=5
            ) from exc
        try:
            changed = await self._store.postgres.transaction(
                work, budget_seconds=ATTRIBUTES_SECONDS
            )
        finally:
            self._changing.release()
        return _told(vector_store_id, changed, file_id)

    async def remove(self, caller: Caller, vector_store_id: str, file_id: str) -> Json:
        """The file itself stays."""
        _check_ids(vector_store_id, file_id)
        job_id = await self._store.remove(caller.app.id, vector_store_id, file_id)
        if job_id is None:
            raise NotFoundError.of("file", file_id)
        await self._jobs.cancel([job_id])
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}

    async def content(self, caller: Caller, vector_store_id: str, file_id: str) -> Json:
        """The text of a file. Raises `InvalidRequestError` where it was not taken in yet."""
        found = await self._find(caller, vector_store_id, file_id)
        if found.status != "completed":
            raise InvalidRequestError(
                f"The file {file_id} is {found.status} in this vector store; its text can be read "
                "when it is completed."
            )
        chunks = await self._vectors.chunks_of(
            caller.app.id, vector_store_id, file_id, found.generation
        )
        return {
            "object": "vector_store.file_content.page",
            "data": content_of(chunks),
            "has_more": False,
            "next_page": None,
        }

    async def page(
        self,
        caller: Caller,
        vector_store_id: str,
        page: Page,
        *,
        status: str | None = None,
        batch_id: str | None = None,
    ) -> Json:
        """Of a store, or of one of its batches."""
        check_id("vector store", vector_store_id)
        check_status(status)
        if batch_id is not None:
            await self.batch(caller, vector_store_id, batch_id)
        else:
            await self._check_store(caller, vector_store_id)
        found, has_more = await self._store.page(
            *(caller.app.id, vector_store_id, page), status=status, batch_id=batch_id
        )
        data = [file_object(vector_store_id, each) for each in found]
        return list_answer(data, has_more=has_more)

    async def add_batch(self, caller: Caller, vector_store_id: str, body: bytes) -> Json:
        """All of them or none."""
        asked = read_body(body, _BATCH)
        files, named = files_of(asked), "file_ids" if asked.files is None else "files"
        check_id("vector store", vector_store_id)
        for each in files:
            check_id("file", each.file_id)

        async def work(connection: Connection) -> Batch | None:
            batch_id = await self._adding.put(
                connection, caller, vector_store_id, files, as_batch=True, named=named
            )
            assert batch_id is not None, "there are files"
            return await find_batch(connection, caller.app.id, vector_store_id, batch_id)

        made = await self._store.postgres.transaction(work)
        assert made is not None, "it was made in this transaction"
        return batch_object(vector_store_id, made)

    async def batch(self, caller: Caller, vector_store_id: str, batch_id: str) -> Json:
        check_id("vector store", vector_store_id)
        check_id("file batch", batch_id)

        async def work(connection: Connection) -> Batch | None:
            return await find_batch(connection, caller.app.id, vector_store_id, batch_id)

        found = await self._store.postgres.use(work)
        if found is None:
            raise NotFoundError.of("file batch", batch_id)
        return batch_object(vector_store_id, found)

    async def cancel_batch(self, caller: Caller, vector_store_id: str, batch_id: str) -> Json:
        """What was taken in already stays."""
        check_id("vector store", vector_store_id)
        check_id("file batch", batch_id)

        async def work(connection: Connection) -> list[str] | None:
            return await cancel_batch(connection, caller.app.id, vector_store_id, batch_id)

        jobs = await self._store.postgres.transaction(work)
        if jobs is None:
            raise NotFoundError.of("file batch", batch_id)
        await self._jobs.cancel(jobs)
        return await self.batch(caller, vector_store_id, batch_id)

    # inside

    async def _find(self, caller: Caller, vector_store_id: str, file_id: str) -> StoreFile:
        _check_ids(vector_store_id, file_id)
        found = await self._store.find(caller.app.id, vector_store_id, file_id)
        if found is None:
            raise NotFoundError.of("file", file_id)
        return found

    async def _check_store(self, caller: Caller, vector_store_id: str) -> None:
        async def work(connection: Connection) -> bool | None:
            return await hold_store(connection, caller.app.id, caller.user, vector_store_id)

        if await self._store.postgres.use(work) is None:
            raise NotFoundError.of("vector store", vector_store_id)


def _check_ids(vector_store_id: str, file_id: str) -> None:
    check_id("vector store", vector_store_id)
    check_id("file", file_id)


def _told(vector_store_id: str, file: StoreFile | None, file_id: str) -> Json:
    if file is None:
        raise NotFoundError.of("file", file_id)
    return file_object(vector_store_id, file)
