"""Ends vector stores that were not used for too long, and removes chunks that nobody has."""

import asyncio
import logging

from api_server.errors import ApiError, DependencyDownError
from api_server.observability.logging import Seldom
from api_server.stores.jobs import JobStore
from api_server.stores.vector_stores import Stale, VectorStoreStore
from api_server.stores.vectors import Vectors

SWEEP_SECONDS = 2.0
EXPIRE_SECONDS = 30.0
AT_ONCE = 50
GRACE_SECONDS = 60.0
"""So long after the first time chunks are removed once more: a worker that was killed may have sent
some that the vector database had not taken yet.
"""

COMPLAINT_SECONDS = 600.0
"""A line of log, at most so often, tells of chunks that cannot be removed."""

log = logging.getLogger(__name__)


class Sweeping:
    """Loops of a process; several processes do not hinder each other."""

    def __init__(
        self,
        stores: VectorStoreStore,
        vectors: Vectors,
        jobs: JobStore,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._stores = stores
        self._grace_seconds = grace_seconds
        self._vectors = vectors
        self._jobs = jobs
        self._complaints = Seldom(COMPLAINT_SECONDS)

    async def sweep_for_ever(self) -> None:
        while True:
            try:
                while await self.sweep():
                    pass
            except ApiError:
                log.debug("chunks cannot be removed now")
            except Exception:  # the top of a background loop
                log.exception("chunks that are to go could not be removed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def expire_for_ever(self) -> None:
        while True:
            try:
                await self.expire()
            except ApiError:
                log.debug("vector stores cannot be ended now")
            except Exception:  # the top of a background loop
                log.exception("vector stores could not be ended")
            await asyncio.sleep(EXPIRE_SECONDS)

    async def sweep(self) -> int:
        """Remove some chunks, each on its own; how much there was to do. What fails is done later.

        Raises `DependencyDownError` where a database is away.
        """
        found = await self._stores.stale(AT_ONCE)
        done: list[int] = []
        try:
            for each in found:
                try:
                    await self._remove(each)
                    done.append(each.id)
                except ApiError as exc:
                    is_up = self._vectors.qdrant.dependency.is_up
                    if isinstance(exc, DependencyDownError) and not is_up:
                        raise
                    self._complain(each, exc)
        finally:
            if done:
                await self._stores.removed(done, again_seconds=self._grace_seconds)
        return len(found)

    async def expire(self) -> None:
        """Once through all vector stores."""
        unwanted = await self._stores.expire()
        if unwanted:
            await self._jobs.cancel(unwanted)

    async def _remove(self, stale: Stale) -> None:
        await self._vectors.delete(
            *(stale.app_id, stale.vector_store_id),
            file_id=stale.file_id,
            generation=stale.generation,
        )

    def _complain(self, stale: Stale, error: ApiError) -> None:
        if self._complaints.is_due():
            told = {"vector_store": stale.vector_store_id, "reason": error.message}
            log.warning("chunks cannot be removed and are tried again", extra=told)
