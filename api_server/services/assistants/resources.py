"""What tools of an assistant or a thread may use: the caller's own files and vector stores."""

from collections.abc import Mapping

from api_server.errors import InvalidRequestError
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import FileSearchResources, ToolResources
from api_server.services.assistants.rules import check_resources
from api_server.services.assistants.seams import VectorStores
from api_server.stores.owned import missing_files, missing_vector_stores
from api_server.stores.postgres import Connection


class Resources:
    """Checks what is named, and makes vector stores that come along."""

    def __init__(self, vector_stores: VectorStores) -> None:
        self.vector_stores = vector_stores

    async def settle(
        self,
        connection: Connection,
        caller: Caller,
        asked: ToolResources | None,
        *,
        expires_after_days: int | None = None,
    ) -> ToolResources:
        """What is to be kept: ids only, all of them the caller's.

        `expires_after_days` is for a vector store that is made. Raises `InvalidRequestError`.
        """
        check_resources(asked, may_make=True)
        search = None if asked is None else asked.file_search
        if search is None:
            return ToolResources()
        ids = list(search.vector_store_ids or ())
        missing = await missing_vector_stores(connection, caller.app.id, caller.user, ids)
        if missing:
            param = "tool_resources.file_search.vector_store_ids"
            raise _no_such("vector store", missing[0], param)
        for wish in search.vector_stores or ():
            param = "tool_resources.file_search.vector_stores[0].file_ids"
            await self.check_files(connection, caller, dict.fromkeys(wish.file_ids, param))
            made = await self.vector_stores.make(
                *(connection, caller, wish),
                user=caller.user,
                expires_after_days=expires_after_days,
            )
            ids.append(made)
        return ToolResources(file_search=FileSearchResources(vector_store_ids=ids))

    async def check_files(
        self, connection: Connection, caller: Caller, named: Mapping[str, str]
    ) -> None:
        """Raises `InvalidRequestError` for a file that the caller does not have; `named` has where
        each id stands.
        """
        if not named:
            return
        missing = await missing_files(connection, caller.app.id, caller.user, list(named))
        if missing:
            raise _no_such("file", missing[0], named[missing[0]])


def _no_such(what: str, id_: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(f"No {what} found with id {id_[:100]!r}.", param=param)
