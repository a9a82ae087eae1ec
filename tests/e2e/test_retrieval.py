"""Retrieval with the real embedding model, by the official client, through `make local`."""

import asyncio
import os
import signal
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.e2e.conftest import MODEL_SECONDS
from tests.local_stack import LocalStack, eventually, local_stack
from tests.retrieval_set import Document, documents
from tests.s3 import S3Server

FIRST = 3
WANTED = 0.9

pytestmark = pytest.mark.timeout(MODEL_SECONDS + 240)


@pytest.fixture(scope="module")
def searching(
    stack: LocalStack, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """With embeddings, and with contents of files in a store of the test's own."""
    assert stack.is_ready()  # it compiled the engine
    folder = tmp_path_factory.mktemp("searching") / "data"
    with local_stack(folder, EMBEDDINGS="on", **s3_server.variables) as running:
        running.wait_ready(MODEL_SECONDS)
        yield running


@pytest.fixture(scope="module")
def client(searching: LocalStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{searching.url}/v1", api_key="none", max_retries=2) as client:
        yield client


@pytest.fixture(scope="module")
def store(client: openai.OpenAI) -> str:
    made = client.vector_stores.create(name="made for the tests")
    batch = client.vector_stores.file_batches.upload_and_poll(
        made.id,
        files=[(each.name, each.text.encode()) for each in documents()],
        poll_interval_ms=200,
    )
    assert batch.file_counts.completed == len(documents()), batch
    return made.id


def test_the_right_document_is_among_the_first_three(searching: LocalStack, store: str) -> None:
    asked = [(each, question) for each in documents() for question in each.questions]
    assert (len(documents()), len(asked)) == (50, 100)

    async def ask_all() -> list[bool]:
        at_once = asyncio.Semaphore(4)
        async with openai.AsyncOpenAI(base_url=f"{searching.url}/v1", api_key="none") as client:

            async def is_found(document: Document, question: str) -> bool:
                async with at_once:
                    page = await client.vector_stores.search(
                        store, query=question, max_num_results=FIRST
                    )
                return document.name in [each.filename for each in page.data]

            return list(await asyncio.gather(*(is_found(*each) for each in asked)))

    outcomes = asyncio.run(ask_all())
    missed = [question for (_, question), hit in zip(asked, outcomes, strict=True) if not hit]
    print(f"among the first {FIRST}: {sum(outcomes)} of {len(outcomes)}; missed: {missed}")
    assert sum(outcomes) >= WANTED * len(outcomes), missed


def test_vectors_survive_a_kill_of_their_server(searching: LocalStack, store: str) -> None:
    os.kill(searching.vectors_pid(), signal.SIGKILL)

    def is_back() -> bool:
        body = {"query": "winding the town hall clock by hand"}
        url = f"{searching.url}/v1/vector_stores/{store}/search"
        answer = httpx.post(url, json=body, timeout=10)
        assert answer.status_code in {200, 503}, answer.text
        return answer.is_success and answer.json()["data"][0]["filename"] == "clock-tower.md"

    eventually(is_back, 30, "the vector database is back")
    assert httpx.get(f"{searching.url}/health", timeout=5).json()["dependencies"]["qdrant"] == "up"
