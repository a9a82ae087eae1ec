"""What assistants and threads ask of their neighbours: vector stores, runs."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from api_server.errors import NotSetUpError
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import InlineStore
from api_server.stores.postgres import Connection

THREAD_STORE_DAYS = 7
"""A vector store that was made for a thread goes so long after its last use."""

StopRuns = Callable[[Connection, str], Awaitable[None]]
"""Ends the work of a thread's runs, before they are deleted: gets the thread's id."""


class VectorStores(Protocol):
    """Vector stores that come into being on the way, within the transaction of who needs them."""

    async def make(
        self,
        connection: Connection,
        caller: Caller,
        wish: InlineStore,
        *,
        user: str | None,
        expires_after_days: int | None,
    ) -> str:
        """A new one with these files, which are the caller's; its id. `user` is the end user whose
        it is, None where it is the app's.

        Raises `InvalidRequestError` for a chunking strategy that cannot be.
        """
        ...

    async def add(
        self, connection: Connection, caller: Caller, vector_store_id: str, file_ids: Sequence[str]
    ) -> None:
        """Files of the caller into a vector store of theirs; one that is in it already stays."""
        ...


class NoVectorStores:
    """Where something is not set up that they need: what that is, and what to do about it."""

    def __init__(self, dependency: str, message: str) -> None:
        self._lacks = (dependency, message)

    async def make(
        self,
        connection: Connection,  # noqa: ARG002
        caller: Caller,  # noqa: ARG002
        wish: InlineStore,  # noqa: ARG002
        *,
        user: str | None,  # noqa: ARG002
        expires_after_days: int | None,  # noqa: ARG002
    ) -> str:
        """Raises `NotSetUpError`."""
        raise NotSetUpError(*self._lacks)

    async def add(
        self,
        connection: Connection,  # noqa: ARG002
        caller: Caller,  # noqa: ARG002
        vector_store_id: str,  # noqa: ARG002
        file_ids: Sequence[str],  # noqa: ARG002
    ) -> None:
        """Raises `NotSetUpError`."""
        raise NotSetUpError(*self._lacks)
