"""`python -m benchmarks.search`: a search in 100,000 chunks of one app among several, as the
gateway asks it, without a model for embeddings; and what of it is the gateway's own client.
"""

import argparse
import asyncio
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

from api_server.local import vector_database
from api_server.local.process import free_port
from api_server.local.store_programs import find_vector_engine
from api_server.local.terminal import TerminalSay
from api_server.schemas.chunks import Chunk, Point
from api_server.settings import load_environment
from api_server.settings.store_layout import load_collections
from api_server.stores.http_client import Answer
from api_server.stores.qdrant import Qdrant
from api_server.stores.vectors import Vectors

OTHERS = 9
"""Apps beside the one that searches; each has a hundredth of its chunks."""

TEXT = "A chunk has eight hundred tokens or fewer; these words stand for them. " * 20
LIMIT = 10
BATCH = 500


class Timed(Qdrant):
    """Knows how long the HTTP exchange took, without what is made of it."""

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, api_key)
        self.server_seconds: list[float] = []
        inner = self._http.ask

        async def ask(method: str, path: str, body: bytes | None = None) -> Answer:
            began = time.perf_counter()
            answer = await inner(method, path, body)
            self.server_seconds.append(time.perf_counter() - began)
            return answer

        self._http.ask = ask  # type: ignore[method-assign]


def vector(chance: random.Random, size: int) -> list[float]:
    return [chance.gauss(0, 1) for _ in range(size)]


def point(chance: random.Random, app: str, number: int, pool: list[list[float]]) -> Point:
    base, turn = chance.choice(pool), chance.randrange(len(pool[0]))
    chunk = Chunk(
        app_id=app,
        vector_store_id=f"vs_{app}",
        file_id=f"file-{app}-{number // 50}",
        generation="generation",
        n=number % 50,
        text=TEXT,
        start=0,
        end=len(TEXT),
        filename="a.txt",
        attributes={"year": 2000 + number % 25},
    )
    id_ = f"{chance.getrandbits(128):032x}"
    return Point(id_, base[turn:] + base[:turn], chunk)


async def fill(vectors: Vectors, chunks: int, size: int) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    pool = [vector(chance, size) for _ in range(500)]
    apps = {"mine": chunks} | {f"other{n}": chunks // 100 for n in range(OTHERS)}
    began = time.perf_counter()
    for app, count in apps.items():
        for first in range(0, count, BATCH):
            last = min(first + BATCH, count)
            await vectors.upsert([point(chance, app, n, pool) for n in range(first, last)])
    total = sum(apps.values())
    say(f"put in: {total:,} chunks of {size} numbers in {time.perf_counter() - began:.0f} s")


async def measure(vectors: Vectors, qdrant: Timed, size: int, searches: int) -> None:
    chance = random.Random(2)  # noqa: S311 - no secret
    questions = [vector(chance, size) for _ in range(searches)]
    for question in questions[:5]:
        await vectors.search("mine", ["vs_mine"], question, limit=LIMIT)
    qdrant.server_seconds.clear()
    took = []
    for question in questions:
        began = time.perf_counter()
        hits = await vectors.search("mine", ["vs_mine"], question, limit=LIMIT)
        took.append(time.perf_counter() - began)
        assert len(hits) == LIMIT
        assert {hit.chunk.app_id for hit in hits} == {"mine"}
    own = [all_ - server for all_, server in zip(took, qdrant.server_seconds, strict=True)]
    say(f"search, {LIMIT} of them with their texts: {told(took)}")
    say(f"  of that the server and the socket: {told(qdrant.server_seconds)}")
    say(f"  of that our client (JSON, filter, breaker): {told(own)}")


def told(seconds: list[float]) -> str:
    """Median and 95th percentile, in milliseconds."""
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return f"median {statistics.median(seconds) * 1000:.1f} ms, p95 {p95 * 1000:.1f} ms"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run(chunks: int, size: int, searches: int, url: str | None, key: str) -> None:
    name = f"bench-{secrets.token_hex(4)}"
    collection = load_collections().chunks.model_copy(update={"name": name})
    qdrant = Timed(url or "", key)
    if url is not None:
        vectors = Vectors(qdrant, collection)
        await fill(vectors, chunks, size)
        await measure(vectors, qdrant, size, searches)
        await qdrant.ask("DELETE", f"/collections/{name}")
        return
    cache_home = load_environment().cache_home
    engine = await find_vector_engine(cache_home=cache_home, say=TerminalSay(sys.stderr))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="stack-bench-") as folder:
        path = Path(folder) / "vectors.json"
        path.write_text(vector_database.configuration(port, key, Path(folder) / "data"))
        process = await asyncio.create_subprocess_exec(
            "env",
            *(f"{name}={text}" for name, text in vector_database.variables(engine).items()),
            *vector_database.server_arguments(path),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            while not await vector_database.answers(port):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
            qdrant = Timed(vector_database.url(port), key)
            vectors = Vectors(qdrant, collection)
            await fill(vectors, chunks, size)
            await measure(vectors, qdrant, size, searches)
            await qdrant.aclose()
        finally:
            process.kill()
            await process.wait()


def main() -> None:
    """Against our vector server, or `--url` (with `--key`), a Qdrant that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--url")
    parser.add_argument("--key", default=secrets.token_hex(8))
    asked = parser.parse_args()
    told_ = json.dumps({"chunks": asked.chunks, "size": asked.size})
    say(f"{told_} in {asked.url or 'the vector server of make local'}")
    asyncio.run(run(asked.chunks, asked.size, asked.searches, asked.url, asked.key))


if __name__ == "__main__":
    main()
