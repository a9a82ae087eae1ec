"""Files on their way into vector stores: rows of `vector_store_files`, as whoever does the job sees
them.

What is written needs the job's fence: whoever lost the job writes nothing more.
"""

from dataclasses import dataclass

from api_server.stores.postgres import Postgres, queries

_SQL = queries("ingests")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a file is taken into a vector store; `generation` is its own."""

    app_id: str
    vector_store_id: str
    file_id: str
    generation: str

    def values(self) -> tuple[str, str, str, str]:
        return (self.app_id, self.vector_store_id, self.file_id, self.generation)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be taken in. `chunking` and `attributes` are JSON; of `chunks` from the first on
    the vectors were kept already; `chunks_of_others` is what the app's other files have.
    """

    chunking: str
    attributes: str
    chunks: int
    filename: str
    content_type: str
    bytes: int
    chunks_of_others: int


@dataclass(frozen=True, slots=True)
class Hold:
    """That a job is ours: its id and its fence."""

    job_id: str
    fence: int


class IngestStore:
    """Every method raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def wanted(self, attempt: Attempt) -> Wanted | None:
        """None where it is done, was cancelled or removed, or another attempt took its place."""
        row = await self._postgres.fetchrow(_SQL["wanted"], *attempt.values())
        return Wanted(**dict(row)) if row is not None else None

    async def reached(self, attempt: Attempt, hold: Hold, chunks: int) -> bool:
        """Note that so many chunks are kept; False where that is not ours to say any more."""
        return await self._is_ours("reached", attempt, hold, chunks)

    async def complete(
        self, attempt: Attempt, hold: Hold, *, chunks: int, usage_bytes: int, attributes: str
    ) -> bool:
        """The file can be searched. False where it is not ours, or has other attributes by now."""
        return await self._is_ours("complete", attempt, hold, chunks, usage_bytes, attributes)

    async def fail(self, attempt: Attempt, hold: Hold, code: str, message: str) -> bool:
        """It cannot be taken in; `code` is one of OpenAI's. Its chunks are to be removed."""
        return await self._is_ours("fail", attempt, hold, code, message)

    async def give_up(self, attempt: Attempt) -> None:
        """Have the chunks of an attempt removed that nobody wants any more, or goes on with."""
        await self._postgres.execute(_SQL["give_up"], *attempt.values())

    async def settle(self) -> None:
        """End what is under way for the table although its job has ended."""
        await self._postgres.execute(_SQL["settle"])

    async def do_others_wait(self, app_id: str) -> bool:
        """Whether a file of another app waits for a place, and none of that app has one or is put
        off.
        """
        row = await self._postgres.fetchrow(_SQL["others_wait"], app_id)
        return row is not None

    async def _is_ours(self, query: str, attempt: Attempt, hold: Hold, *values: object) -> bool:
        row = await self._postgres.fetchrow(
            _SQL[query], *attempt.values(), hold.job_id, hold.fence, *values
        )
        return row is not None
