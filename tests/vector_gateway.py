"""A gateway with vector stores: real PostgreSQL, S3 and vector server; the model is played."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import openai
import pytest

from tests.access import ADMIN, Guarded, make_app
from tests.fake_engine import FakeEngine, answers, running_engine
from tests.integration.conftest import running_gateway
from tests.qdrant import QdrantServer
from tests.s3 import S3Server

SIZE = 256
RETRIEVAL = {"ingests": 2}


@dataclass
class VectorGateway:
    """Two apps and their clients."""

    engine: FakeEngine
    guarded: Guarded
    keys: tuple[str, str]
    client: openai.AsyncOpenAI
    other: openai.AsyncOpenAI
    postgres_url: str

    async def ask(self, method: str, path: str, *, app: int = 0, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[app]}"}
        return await self.guarded.http.request(method, path, headers=headers, **options)

    async def rows(self, query: str, *values: object) -> list[Any]:
        connection = await asyncpg.connect(self.postgres_url)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def upload(self, name: str, text: str) -> str:
        file = await self.client.files.create(file=(name, text.encode()), purpose="assistants")
        return file.id

    async def store_of(self, texts: Mapping[str, str], **wishes: Any) -> str:
        """A vector store with these files, all of them taken in."""
        store = await self.client.vector_stores.create(**wishes)
        ids = [await self.upload(name, text) for name, text in texts.items()]
        async with asyncio.timeout(30):
            batch = await self.client.vector_stores.file_batches.create_and_poll(
                store.id, file_ids=ids, poll_interval_ms=50
            )
        assert batch.file_counts.completed == len(texts), batch
        return store.id


def words_of(text: str) -> list[float]:
    """Texts with the same words have near vectors."""
    vector = [0.0] * SIZE
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % SIZE] += 1.0
    return vector if any(vector) else [1.0] * SIZE


def play_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine makes vectors of words."""

    def vectors(body: Mapping[str, Any]) -> dict[str, Any]:
        given = body["input"]
        texts = [given] if isinstance(given, str) else given
        data = [
            {"object": "embedding", "index": number, "embedding": words_of(text)}
            for number, text in enumerate(texts)
        ]
        counted = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "model": body["model"], "data": data, "usage": counted}

    monkeypatch.setattr(answers, "vectors", vectors)


@asynccontextmanager
async def vector_gateway(
    folder: Path,
    postgres_url: str,
    s3: S3Server,
    qdrant: QdrantServer,
    *,
    extra: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[VectorGateway]:
    """The engine serves a chat model and one for embeddings; `extra` are more variables."""
    if qdrant.url:  # vectors of other tests may have another length
        qdrant.ask("DELETE", "/collections/stack-chunks")
    first, second = await make_app(postgres_url), await make_app(postgres_url, "other")
    keys = (first.key or "", second.key or "")
    variables = {
        "ENVIRONMENT": "production",
        "AUTH": "on",
        "POSTGRES_URL": postgres_url,
        "ADMIN_API_KEY": ADMIN,
        **s3.variables,
        **qdrant.variables,
        **(extra or {}),
    }
    async with running_engine() as engine:
        replicas = [f"http://127.0.0.1:{engine.port}"]
        models = [
            {"id": "fake", "replicas": replicas},
            {"id": "words", "replicas": replicas, "serves": "embeddings"},
        ]
        told = {"retrieval": RETRIEVAL, "models": models} | sections
        async with (
            running_gateway(folder, engine, variables=variables, **told) as (_, url),
            httpx.AsyncClient(base_url=url, timeout=20) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=keys[0], max_retries=0) as client,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=keys[1], max_retries=0) as other,
        ):
            yield VectorGateway(engine, Guarded(url, http), keys, client, other, postgres_url)
