"""What comes before a text that is embedded."""

import json

import pytest

from api_server.errors import ContextLengthError
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import ANYONE
from api_server.services.client import Client
from api_server.services.retrieval.embedding import Asking, Contexts, tokens_of
from api_server.services.retrieval.prefixes import Prefixes, prefixes_of
from api_server.services.vector_stores.questions import Questions
from api_server.stores.jobs import Taken
from tests.ingest_parts import EMBEDDING_MODEL

DOCUMENT, QUERY = "search_document: ", "search_query: "


@pytest.mark.parametrize(
    ("model_id", "document", "query"),
    [
        ("nomic-embed-text-v1.5", DOCUMENT, QUERY),
        ("nomic-ai/Nomic-Embed-text-v2-moe", DOCUMENT, QUERY),
        ("all-minilm-l6-v2", "", ""),
        ("my-nomic-embed", "", ""),
    ],
)
def test_they_follow_from_the_model(model_id: str, document: str, query: str) -> None:
    assert prefixes_of(model_id) == Prefixes(document, query)


def test_the_operator_has_the_last_word() -> None:
    assert prefixes_of("nomic-embed-text", document="", query="q: ") == Prefixes("", "q: ")
    assert prefixes_of("nomic-embed-text", query="q: ").document == DOCUMENT
    assert prefixes_of("other", document="d: ") == Prefixes("d: ", "")


class Heard:
    """An embedder that writes down what it is asked."""

    def __init__(self, context_tokens: int | None = None) -> None:
        self.inputs: list[str] = []
        self._context_tokens = context_tokens

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:  # noqa: ARG002
        inputs = json.loads(body)["input"]
        self.inputs += inputs
        if self._context_tokens is not None:
            raise ContextLengthError(9999, self._context_tokens)
        data = [{"index": n, "embedding": [1.0]} for n in range(len(inputs))]
        await client.answer(json.dumps({"data": data}).encode())


def asking(embedder: Heard, prefix: str) -> Asking:
    job = Taken(
        *("job_1", "app_a", None, "ingest", "{}", EMBEDDING_MODEL.id, "batch"),
        *(1, 1, 60.0, 0.0, "shop", "{}", False),
    )
    return Asking(embedder, EMBEDDING_MODEL, job, lambda _: None, prefix=prefix)


@pytest.mark.parametrize("prefix", ["", DOCUMENT])
async def test_texts_have_theirs(prefix: str) -> None:
    embedder = Heard()
    assert await asking(embedder, prefix).vectors(["a", "b"]) == [[1.0], [1.0]]
    assert embedder.inputs == [f"{prefix}a", f"{prefix}b"]


async def test_they_take_their_part_of_the_context() -> None:
    """Nine tenths of 512 are 460 tokens."""
    without = await Contexts().most_tokens(EMBEDDING_MODEL, 800, asking(Heard(512), ""))
    assert without == 460
    found = await Contexts().most_tokens(EMBEDDING_MODEL, 800, asking(Heard(512), DOCUMENT))
    assert found == 460 - tokens_of(DOCUMENT) < 460
    short = await Contexts().most_tokens(EMBEDDING_MODEL, 100, asking(Heard(512), DOCUMENT))
    assert short == 100


@pytest.mark.parametrize("prefix", ["", DOCUMENT])
async def test_questions_have_theirs(prefix: str) -> None:
    embedder = Heard()
    questions = Questions(embedder, "m", lambda _: None, prefix)
    await questions.vectors(ANYONE, ["where?", "why?"], "run")
    assert embedder.inputs == [f"{prefix}where?", f"{prefix}why?"]
