"""What surrounds the doer of ingests in tests: files in a folder, a model that is played, points in
a SQLite file, which several processes share. `python -m tests.ingest_parts URL FOLDER` is a worker
of its own, to be killed.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from api_server.errors import ContextLengthError, NotFoundError, RateLimitedError
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.observability.record import RequestRecord
from api_server.schemas.chunks import Attributes, Point
from api_server.services.client import Client
from api_server.services.jobs.rules import Rules as JobRules
from api_server.services.jobs.worker import Worker
from api_server.services.retrieval.extracting import Limits
from api_server.services.retrieval.ingesting import Ingests, Rules
from api_server.stores.ingests import IngestStore
from api_server.stores.jobs import JobStore
from api_server.stores.postgres import Connection, Postgres
from tests.job_rows import new_job

LIMITS = Limits()
APP, STORE = "app_a", "vs_1"
EMBEDDING_MODEL = Model("fake-embeddings", LLAMA_SERVER, serves="embeddings", slots=4)


class FolderFiles:
    """The `Files` of the doer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def copy_to(self, app_id: str, file_id: str, path: Path, *, max_bytes: int) -> None:
        found = self.folder / app_id / file_id
        if not found.exists():
            raise NotFoundError.of("file", file_id)
        assert found.stat().st_size <= max_bytes
        path.write_bytes(found.read_bytes())

    def put(self, app_id: str, file_id: str, data: bytes) -> None:
        (self.folder / app_id).mkdir(parents=True, exist_ok=True)
        (self.folder / app_id / file_id).write_bytes(data)


class SqlitePoints:
    """The `Points` of the doer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = 0.0
        self.errors: list[Exception] = []
        self._sent: set[asyncio.Task[None]] = set()
        with self._open() as database:
            database.execute("pragma journal_mode = wal")
            database.execute(
                "create table if not exists points (id text primary key, chunk text, vector text, "
                "writes integer default 1)"
            )

    async def upsert(self, points: Sequence[Point]) -> None:
        """What was sent comes to its end at the server, whether we wait for it or not."""
        sent = asyncio.create_task(self._upsert(points))
        self._sent.add(sent)
        sent.add_done_callback(self._sent.discard)
        await asyncio.shield(sent)

    async def _upsert(self, points: Sequence[Point]) -> None:
        await asyncio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        with self._open() as database:
            database.executemany(
                "insert into points (id, chunk, vector) values (?, ?, ?) on conflict (id) do "
                "update set chunk = excluded.chunk, vector = excluded.vector, writes = writes + 1",
                [
                    (each.id, msgspec.json.encode(each.chunk).decode(), json.dumps(each.vector))
                    for each in points
                ],
            )

    async def set_attributes(
        self, app_id: str, vector_store_id: str, file_id: str, attributes: Attributes
    ) -> None:
        with self._open() as database:
            for id_, text in database.execute("select id, chunk from points").fetchall():
                chunk = json.loads(text)
                whose = (chunk["app_id"], chunk["vector_store_id"], chunk["file_id"])
                if whose == (app_id, vector_store_id, file_id):
                    chunk["attributes"] = dict(attributes)
                    database.execute(
                        "update points set chunk = ? where id = ?", (json.dumps(chunk), id_)
                    )

    def all(self) -> list[dict[str, Any]]:
        """The chunks, in their order."""
        with self._open() as database:
            rows = database.execute("select chunk, vector, writes from points").fetchall()
        chunks = [
            {**json.loads(chunk), "vector": json.loads(vector), "writes": writes}
            for chunk, vector, writes in rows
        ]
        return sorted(chunks, key=lambda each: (each["file_id"], each["n"], each["start"]))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10)
        try:
            with database:
                yield database
        finally:
            database.close()


def vector_of(text: str) -> list[float]:
    """What the played model makes of a text."""
    return [each / 255 for each in hashlib.sha256(text.encode()).digest()[:4]]


class PlayedModel:
    """The `Embedder`: answers after a while, or raises what it was told to."""

    def __init__(self, seconds: float = 0.0, most_characters: int = 10**9) -> None:
        self.seconds = seconds
        self.most_characters = most_characters
        self.errors: list[Exception] = []
        self.limited: set[str] = set()
        self.asked: list[list[str]] = []
        self.at_once = self.most_at_once = 0
        self.callers: set[tuple[str, str, bool]] = set()

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:
        told = json.loads(body)
        record.model = told["model"]
        self.asked.append(told["input"])
        caller = client.caller
        self.callers.add((caller.app.id, caller.app.policy.priority, caller.was_counted))
        if caller.app.id in self.limited:
            raise RateLimitedError("wait", retry_after_seconds=60)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if self.errors:
            raise self.errors.pop(0)
        if any(len(text) > self.most_characters for text in told["input"]):
            raise ContextLengthError(9999, 512)
        data = [
            {"index": index, "embedding": vector_of(text)}
            for index, text in enumerate(told["input"])
        ]
        await client.answer(json.dumps({"data": data[::-1]}).encode())


class Taking:
    """A doer and its worker, as long as this lasts."""

    def __init__(
        self,
        postgres: Postgres,
        folder: Path,
        *,
        model: PlayedModel | None = None,
        models: Sequence[Model] = (EMBEDDING_MODEL,),
        lease_seconds: float = 15.0,
        limits: Limits = LIMITS,
        turn_seconds: float = 30.0,
    ) -> None:
        self.postgres = postgres
        self.files = FolderFiles(folder / "files")
        self.points = SqlitePoints(folder / "points.sqlite")
        self.model = model or PlayedModel()
        self.jobs = JobStore(postgres, "ingest")
        self.records: list[RequestRecord] = []
        self.ends: list[RequestRecord] = []
        self.folder = folder / "ingest"
        self.ingests = Ingests(
            *(IngestStore(postgres), self.files, self.points, self.model, Catalogue(models)),
            Rules(limits, self.folder, turn_seconds=turn_seconds),
            ended=self.records.append,
        )
        self.worker = Worker(
            *(self.jobs, self.ingests, JobRules(lease_seconds=lease_seconds), 2),
            ended=self.ends.append,
            observe=lambda _waited, _ran: None,
        )

    async def __aenter__(self) -> "Taking":
        loops = (self.worker.run, self.ingests.keep)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.worker.drain(0.0)

    async def add(
        self,
        file_id: str,
        data: bytes,
        *,
        filename: str = "a.txt",
        chunking: str = '{"type": "auto"}',
        attributes: str = "{}",
        app_id: str = APP,
        store: str = STORE,
    ) -> str:
        """Put a file into the vector store, as the API does; returns the job's id."""
        self.files.put(app_id, file_id, data)
        generation = secrets.token_hex(8)
        told = {"vector_store_id": store, "file_id": file_id, "generation": generation}
        made = replace(new_job(app_id, model=EMBEDDING_MODEL.id), chat=json.dumps(told))

        async def work(connection: Connection) -> None:
            await connection.execute(
                "insert into vector_stores (id, app_id) values ($1, $2) on conflict do nothing",
                *(store, app_id),
            )
            await connection.execute(
                "insert into files (id, app_id, filename, purpose, content_type, bytes, digest) "
                "values ($1, $2, $3, 'assistants', 'application/octet-stream', $4, '')",
                *(file_id, app_id, filename, len(data)),
            )
            await connection.execute(
                "insert into vector_store_files (vector_store_id, file_id, app_id, chunking, "
                "attributes, job_id, generation) values ($1, $2, $3, $4, $5, $6, $7)",
                *(store, file_id, app_id, chunking, attributes, made.id, generation),
            )
            await self.jobs.enqueue(connection, [made], timeout_seconds=3600)

        await self.postgres.transaction(work)
        self.worker.wake()
        return made.id

    async def row(self, file_id: str) -> dict[str, Any]:
        row = await self.postgres.fetchrow(
            "select * from vector_store_files where file_id = $1", file_id
        )
        return dict(row) if row is not None else {}

    async def ended(self, file_id: str, seconds: float = 20) -> dict[str, Any]:
        """The row, once it is not in progress any more."""
        async with asyncio.timeout(seconds):
            while (row := await self.row(file_id)).get("status") == "in_progress":
                await asyncio.sleep(0.05)
        return row

    async def stale(self) -> list[tuple[str, str]]:
        """Files and generations whose chunks are to be removed."""
        rows = await self.postgres.fetch("select file_id, generation from stale_chunks")
        return [(row["file_id"], row["generation"]) for row in rows]


async def _work(url: str, folder: Path) -> None:
    postgres = Postgres(url)
    async with Taking(postgres, folder, model=PlayedModel(0.4), lease_seconds=1.5):
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], Path(sys.argv[2])))
