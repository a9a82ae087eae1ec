"""Files into a vector store: how much of the time is the embedding engine's.

The services as the gateway builds them, in this process: the real engine that `make local` starts
for embeddings, PostgreSQL, the vector server, files in a folder. Run as
`python -m benchmarks.ingest [--pages N]`. After `--seconds` it counts what is there.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from api_server.composition import compose
from api_server.local import vector_database
from api_server.local.process import Command, free_port
from api_server.local.stack import embedding_plan, engine_binary
from api_server.local.store_programs import find_vector_engine
from api_server.local.terminal import TerminalSay
from api_server.observability.record import RequestRecord
from api_server.services.client import Client
from api_server.services.embeddings import Embeddings
from api_server.services.jobs.rules import Rules as JobRules
from api_server.services.retrieval.extracting import Limits
from api_server.services.retrieval.ingesting import Rules
from api_server.services.retrieval.room import furnish_ingests
from api_server.settings import load_environment, load_settings
from api_server.settings.store_layout import load_collections
from api_server.stores.jobs import JobStore, NewJob
from api_server.stores.postgres import Connection, Postgres
from api_server.stores.qdrant import Qdrant
from api_server.stores.vectors import Vectors
from benchmarks import machine
from benchmarks.bench import BenchError, choose_cores
from benchmarks.processes import Running, clean_environment, running
from benchmarks.state import stores

WORDS_OF_A_PAGE = 500
PAGES = 60
PAGES_OF_A_FILE = 20
SECONDS = 540.0
JOB_SECONDS = 86_400.0
TELL_SECONDS = 20.0

WORDS = (
    *("the", "a", "of", "in", "for", "with", "and", "when", "where", "river", "engine", "report"),
    *(
        "water",
        "winter",
        "city",
        "paper",
        "letter",
        "music",
        "garden",
        "answer",
        "people",
        "market",
    ),
    *(
        "small",
        "large",
        "quiet",
        "recent",
        "careful",
        "common",
        "late",
        "northern",
        "wrote",
        "kept",
    ),
)


class Timed:
    """The `Embedder`; for how long the engine had texts, and as many as it has slots."""

    def __init__(self, embeddings: Embeddings, slots: int) -> None:
        self._embeddings = embeddings
        self._slots = slots
        self._texts = 0
        self._since = time.perf_counter()
        self.busy_seconds = 0.0
        self.full_seconds = 0.0
        self.tokens = 0

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:
        texts = len(json.loads(body)["input"])
        self._change(texts)
        try:
            await self._embeddings.embed(body, client, record)
            self.tokens += record.prompt_tokens or 0
        finally:
            self._change(-texts)

    def _change(self, texts: int) -> None:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self.busy_seconds += seconds if self._texts else 0.0
        self.full_seconds += seconds if self._texts >= self._slots else 0.0
        self._texts += texts


class Folder:
    """The files, as the object store would give them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def copy_to(self, app_id: str, file_id: str, path: Path, *, max_bytes: int) -> None:  # noqa: ARG002
        await asyncio.to_thread(path.write_bytes, (self._folder / file_id).read_bytes())

    def put(self, pages: int, chance: random.Random) -> tuple[str, int]:
        """A file of prose; its id and its bytes."""
        text = "\n\n".join(_page(chance) for _ in range(pages))
        file_id = f"file-{secrets.token_hex(6)}"
        (self._folder / file_id).write_text(text, encoding="utf-8")
        return file_id, len(text)


async def main(pages: int, seconds: float) -> int:
    """Measure and print."""
    watch = machine.LoadWatch.begin()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        print(await _report(Path(name), pages, seconds), flush=True)  # noqa: T201 - a command
    if warning := watch.warning():
        print(warning)  # noqa: T201
    return 0


async def _report(folder: Path, pages: int, seconds: float) -> str:
    cores = choose_cores(sorted(os.sched_getaffinity(0)))
    async with (
        stores(cores.harness, folder) as variables,
        _engine(folder) as (stack_file, engine),
        _vector_server(folder) as vectors,
    ):
        told = variables | {"STACK_CONFIG": str(stack_file), "DATA_DIR": str(folder / "data")}
        told |= {"REDIS_URL": "", "ENVIRONMENT": "development", "AUTH": "off"}
        services = compose(load_settings(told))
        postgres = Postgres(variables["POSTGRES_URL"])
        (model,) = services.catalogue
        timed = Timed(services.embeddings, model.slots)
        files = Folder(folder)
        rules = Rules(Limits(), folder / "reading")
        room = furnish_ingests(
            *(postgres, services.catalogue, timed, files, vectors),
            *(rules, JobRules(timeout_seconds=JOB_SECONDS)),
            slots=2,
            job_ended=lambda _: None,
            vectors_ended=lambda _: None,
        )
        async with services.running():
            tasks = [asyncio.create_task(each.run()) for each in room.workers]
            try:
                return await _measured(postgres, files, timed, engine, pages, seconds)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await room.workers[0].drain(0.0)
                await postgres.aclose()
                await vectors.qdrant.aclose()


async def _measured(
    postgres: Postgres, files: Folder, timed: Timed, engine: Running, pages: int, limit: float
) -> str:
    """Of all pages, or of the files that are whole when the time is over."""
    chance = random.Random(1)  # noqa: S311 - no secret
    began, cpu, engines = time.perf_counter(), time.process_time(), engine.cpu_seconds()
    told = 0.0
    for done in range(0, pages, PAGES_OF_A_FILE):
        await _add(postgres, *files.put(min(pages - done, PAGES_OF_A_FILE), chance))
    while True:
        rows = await postgres.fetch("select status, chunks, last_error from vector_store_files")
        if failed := [row["last_error"] for row in rows if row["status"] == "failed"]:
            raise BenchError(f"a file was not taken in: {failed[0]}")
        if all(row["status"] == "completed" for row in rows):
            break
        seconds = time.perf_counter() - began
        if seconds > limit:
            break
        if seconds - told > TELL_SECONDS:
            told = seconds
            so_far = sum(row["status"] == "completed" for row in rows)
            TerminalSay(sys.stderr).line(f"{so_far} of {len(rows)} files after {seconds:.0f} s")
        await asyncio.sleep(0.1)
    seconds = time.perf_counter() - began
    whole = [row for row in rows if row["status"] == "completed"]
    chunks = sum(row["chunks"] for row in whole)
    done = pages if len(whole) == len(rows) else len(whole) * PAGES_OF_A_FILE
    if not done:
        raise BenchError(f"no file was taken in within {seconds:.0f} s")
    early = "" if done == pages else f"of {pages} pages, when the time was over: "
    return (
        f"{early}{done} pages in {len(whole)} files, {chunks} chunks: {seconds:.1f} s, "
        f"{done / seconds:.2f} pages/s, {timed.tokens / seconds:.0f} tokens/s; the embedding "
        f"engine had work for {timed.busy_seconds / seconds:.1%} of the time, for all of its slots "
        f"for {timed.full_seconds / seconds:.1%}; it took "
        f"{(engine.cpu_seconds() - engines) / done:.2f} s of a core for a page, we "
        f"{(time.process_time() - cpu) / seconds:.1%} of a core"
    )


async def _add(postgres: Postgres, file_id: str, size: int) -> None:
    generation = secrets.token_hex(8)
    work = {"vector_store_id": "vs_bench", "file_id": file_id, "generation": generation}
    job = NewJob(
        *(
            f"job_{secrets.token_hex(8)}",
            "app_bench",
            None,
            "ingest",
            json.dumps(work),
            "",
            "batch",
        ),
        step=1,
        digest=b"",
    )

    async def put(connection: Connection) -> None:
        await connection.execute(
            "insert into vector_stores (id, app_id) values ('vs_bench', $1) on conflict do nothing",
            job.app_id,
        )
        await connection.execute(
            "insert into files (id, app_id, filename, purpose, content_type, bytes, digest) "
            "values ($1, $2, 'a.txt', 'assistants', 'text/plain', $3, '')",
            *(file_id, job.app_id, size),
        )
        await connection.execute(
            "insert into vector_store_files (vector_store_id, file_id, app_id, chunking, job_id, "
            "generation) values ('vs_bench', $1, $2, '{\"type\": \"auto\"}', $3, $4)",
            *(file_id, job.app_id, job.id, generation),
        )
        await JobStore(postgres, "ingest").enqueue(connection, [job], timeout_seconds=JOB_SECONDS)

    await postgres.transaction(put)


@asynccontextmanager
async def _engine(folder: Path) -> AsyncIterator[tuple[Path, Running]]:
    """The stack file that has it, and its process."""
    settings, say = load_settings(), TerminalSay(sys.stderr)
    binary = await engine_binary(settings, say)
    plan = replace(await embedding_plan(settings, 2**40, "", say), threads=1)
    port = free_port()
    argv = [str(binary), *plan.arguments(port)]
    path = folder / "stack.yaml"
    model = {"id": plan.model_id, "serves": "embeddings", "slots": plan.slots}
    model["replicas"] = [f"http://127.0.0.1:{port}"]
    path.write_text(yaml.safe_dump({"models": [model]}))
    log = folder / "engine.log"
    async with running(Command("engine", argv, clean_environment(), log)) as process:
        await _until_answers(port)
        process.look_for_children()
        yield path, process


@asynccontextmanager
async def _vector_server(folder: Path) -> AsyncIterator[Vectors]:
    engine = await find_vector_engine(
        cache_home=load_environment().cache_home, say=TerminalSay(sys.stderr)
    )
    port, key = free_port(), secrets.token_hex(16)
    configuration = folder / "vectors.json"
    configuration.write_text(vector_database.configuration(port, key, folder / "vectors"))
    argv = vector_database.server_arguments(configuration)
    environment = clean_environment(**vector_database.variables(engine))
    command = Command("vectors", argv, environment, folder / "vectors.log")
    async with running(command):
        deadline = time.monotonic() + 30
        while not await vector_database.answers(port):
            if time.monotonic() > deadline:
                raise BenchError((folder / "vectors.log").read_text()[-500:])
            await asyncio.sleep(0.1)
        qdrant = Qdrant(vector_database.url(port), key)
        yield Vectors(qdrant, load_collections().chunks)


async def _until_answers(port: int) -> None:
    for _ in range(600):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            is_ready = b" 200 " in await reader.readline()
            writer.close()
        except OSError:
            is_ready = False
        if is_ready:
            return
        await asyncio.sleep(0.1)
    raise BenchError("the embedding engine did not start")


def _page(chance: random.Random) -> str:
    sentences: list[str] = []
    while sum(len(each.split()) for each in sentences) < WORDS_OF_A_PAGE:
        words = chance.choices(WORDS, k=chance.randint(6, 18))
        sentences.append(" ".join(words).capitalize() + ".")
    return " ".join(sentences)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no longer than this")
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.pages, asked.seconds)))
