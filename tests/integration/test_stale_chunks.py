"""What becomes of chunks that nobody has any more, with the real PostgreSQL and vector server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from api_server.errors import ApiError, DependencyDownError, InternalError
from api_server.services.vector_stores.sweeping import Sweeping
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Postgres
from api_server.stores.vector_stores import VectorStoreStore
from api_server.stores.vectors import Vectors
from tests.integration.test_chunks import EAST, opened, point
from tests.qdrant import QdrantServer

GRACE_SECONDS = 1.0
NOTE = (
    "insert into stale_chunks (app_id, vector_store_id, file_id, generation) "
    "values ('a', 'vs_1', 'file-1', 'g1')"
)


@dataclass
class Yard:
    """A sweep whose grace is short."""

    postgres: Postgres
    vectors: Vectors
    sweeping: Sweeping

    async def left(self) -> tuple[int, int]:
        """Chunks of the file, and rows that say that they are to go."""
        chunks = await self.vectors.count("a", "vs_1", file_id="file-1", generation="g1")
        return chunks, len(await self.postgres.fetch("select from stale_chunks"))


@pytest.fixture
async def yard(postgres_url: str, qdrant_server: QdrantServer) -> AsyncIterator[Yard]:
    postgres, vectors = Postgres(postgres_url), opened(qdrant_server)
    sweeping = Sweeping(
        *(VectorStoreStore(postgres), vectors, JobStore(postgres, "ingest")),
        grace_seconds=GRACE_SECONDS,
    )
    yield Yard(postgres, vectors, sweeping)
    qdrant_server.ask("DELETE", vectors._path)
    await vectors.qdrant.aclose()
    await postgres.aclose()


async def test_what_comes_late_from_a_worker_that_was_killed_goes_too(yard: Yard) -> None:
    await yard.vectors.upsert([point(EAST, 0), point(EAST, 1, generation="g2")])
    await yard.postgres.execute(NOTE)
    assert await yard.sweeping.sweep() == 1
    assert await yard.left() == (0, 1)
    await yard.vectors.upsert([point(EAST, 2), point(EAST, 3)])  # its last request
    assert await yard.sweeping.sweep() == 0  # not yet
    assert await yard.left() == (2, 1)
    await asyncio.sleep(GRACE_SECONDS)
    assert await yard.sweeping.sweep() == 1
    assert await yard.left() == (0, 0)
    assert await yard.vectors.count("a", "vs_1") == 1  # of the other generation


async def test_a_failure_is_no_removal(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    await yard.vectors.upsert([point(EAST, 0)])
    await yard.postgres.execute(NOTE)

    async def away(*_: object, **__: object) -> None:
        raise DependencyDownError("qdrant")

    with monkeypatch.context() as patched:
        patched.setattr(yard.vectors, "delete", away)
        assert await yard.sweeping.sweep() == 1
    (row,) = await yard.postgres.fetch("select was_removed from stale_chunks")
    assert not row["was_removed"]
    assert await yard.left() == (1, 1)


@pytest.mark.parametrize("error", [InternalError("refused"), DependencyDownError("qdrant")])
async def test_chunks_that_cannot_be_removed_keep_no_others(
    yard: Yard,
    error: ApiError,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The database is well, and one of the removals is not: they come in the order of their ids."""
    await yard.vectors.upsert([point(EAST, n, file=f"file-{n}") for n in range(4)])
    for n in range(4):
        await yard.postgres.execute(NOTE.replace("file-1", f"file-{n}"))
    delete = yard.vectors.delete

    async def some(app_id: str, store: str, *, file_id: str, generation: str) -> None:
        if file_id in ("file-0", "file-2"):
            raise error
        await delete(app_id, store, file_id=file_id, generation=generation)

    with monkeypatch.context() as patched:
        patched.setattr(yard.vectors, "delete", some)
        assert await yard.sweeping.sweep() == 4
    left = [await yard.vectors.count("a", "vs_1", file_id=f"file-{n}") for n in range(4)]
    assert left == [1, 0, 1, 0]
    complaints = [each for each in caplog.records if "cannot be removed" in each.message]
    assert len(complaints) == 1
    await yard.postgres.execute("update stale_chunks set since = now() where not was_removed")
    assert await yard.sweeping.sweep() == 2
    assert await yard.vectors.count("a", "vs_1") == 0
