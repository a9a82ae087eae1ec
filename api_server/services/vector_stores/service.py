"""Vector stores: made, read, changed, deleted, searched."""

import msgspec
from msgspec import UNSET

from api_server.errors import NotFoundError
from api_server.schemas.apps import Caller
from api_server.schemas.ids import new_id
from api_server.schemas.paging import Page, list_answer
from api_server.schemas.vector_stores import (
    NewStoreFile,
    NewVectorStore,
    Ranking,
    SearchBody,
    VectorStoreChange,
)
from api_server.services.assistants.rules import check_id
from api_server.services.vector_stores.adding import Adding
from api_server.services.vector_stores.objects import Json, store_object
from api_server.services.vector_stores.reading import (
    check_chunking,
    filter_of,
    questions_of,
    read_body,
)
from api_server.services.vector_stores.searching import Searching, Source, Wish
from api_server.stores.postgres import Connection
from api_server.stores.vector_stores import (
    StoreChange,
    VectorStore,
    VectorStoreStore,
    find_store,
    insert_store,
)

_NEW = msgspec.json.Decoder(NewVectorStore)
_CHANGE = msgspec.json.Decoder(VectorStoreChange)
_SEARCH = msgspec.json.Decoder(SearchBody)


class VectorStoreService:
    """Vector stores belong to an app, not to one of its users."""

    def __init__(self, store: VectorStoreStore, adding: Adding, searching: Searching) -> None:
        self._store = store
        self._adding = adding
        self._searching = searching

    async def create(self, caller: Caller, body: bytes) -> Json:
        """With its files, or not at all. Raises `InvalidRequestError`, `NotFoundError`."""
        asked = read_body(body, _NEW)
        chunking = check_chunking(asked.chunking_strategy)
        id_ = new_id("vs")
        days = None if asked.expires_after is None else asked.expires_after.days

        async def work(connection: Connection) -> VectorStore | None:
            await insert_store(
                *(connection, caller.app.id, id_),
                name=asked.name or "",
                description=asked.description,
                metadata=msgspec.json.encode(asked.metadata or {}).decode(),
                expires_after_days=days,
            )
            files = [
                NewStoreFile(each, None, chunking) for each in dict.fromkeys(asked.file_ids or ())
            ]
            await self._adding.put(connection, caller, id_, files)
            return await find_store(connection, caller.app.id, id_)

        made = await self._store.postgres.transaction(work)
        assert made is not None, "it was made in this transaction"
        return store_object(made)

    async def retrieve(self, caller: Caller, vector_store_id: str) -> Json:
        check_id("vector store", vector_store_id)
        found = await self._store.find(caller.app.id, vector_store_id)
        if found is None:
            raise NotFoundError.of("vector store", vector_store_id)
        return store_object(found)

    async def modify(self, caller: Caller, vector_store_id: str, body: bytes) -> Json:
        """Write what was sent; a null sets back."""
        asked = read_body(body, _CHANGE)
        check_id("vector store", vector_store_id)
        name, expires, metadata = asked.name, asked.expires_after, asked.metadata
        change = StoreChange(
            name=None if name is UNSET else (name or "",),
            expires_after_days=None
            if expires is UNSET
            else (None if expires is None else expires.days,),
            metadata=None if metadata is UNSET else (msgspec.json.encode(metadata or {}).decode(),),
        )
        if not await self._store.change(caller.app.id, vector_store_id, change):
            raise NotFoundError.of("vector store", vector_store_id)
        return await self.retrieve(caller, vector_store_id)

    async def delete(self, caller: Caller, vector_store_id: str) -> Json:
        """Its files stay; what was made of them goes."""
        check_id("vector store", vector_store_id)
        if not await self._store.delete(caller.app.id, vector_store_id):
            raise NotFoundError.of("vector store", vector_store_id)
        return {"id": vector_store_id, "object": "vector_store.deleted", "deleted": True}

    async def page(self, caller: Caller, page: Page) -> Json:
        found, has_more = await self._store.page(caller.app.id, page)
        return list_answer([store_object(each) for each in found], has_more=has_more)

    async def search(self, caller: Caller, vector_store_id: str, body: bytes) -> Json:
        """`VectorStoreSearchResultsPage` of the reference."""
        asked = read_body(body, _SEARCH)
        questions = questions_of(asked)
        check_id("vector store", vector_store_id)
        ranking = asked.ranking_options or Ranking()
        wish = Wish(
            questions,
            [vector_store_id],
            asked.max_num_results,
            ranking.score_threshold,
            filter_of(asked.filters),
        )
        found = await self._searching.search(caller, wish)
        return {
            "object": "vector_store.search_results.page",
            "search_query": questions,
            "data": [_result(each) for each in found],
            "has_more": False,
            "next_page": None,
        }


def _result(source: Source) -> Json:
    return {
        "file_id": source.chunk.file_id,
        "filename": source.chunk.filename,
        "score": source.score,
        "attributes": source.attributes,
        "content": [{"type": "text", "text": source.chunk.text}],
    }
