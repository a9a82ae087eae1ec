"""`/v1/embeddings` as the official client sees it, with the real model behind it."""

import base64
import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import MODEL_SECONDS
from tests.engine_probe import EngineProbe
from tests.local_stack import LocalStack
from tests.wire import assert_valid

MODEL = "all-minilm-l6-v2"
DIMENSIONS = 384
PATH = "/v1/embeddings"
CAT, CAT_AGAIN = "The cat sits on the mat.", "A cat is resting on a rug."
UNRELATED = "Quarterly revenue grew by twelve percent."

pytestmark = pytest.mark.timeout(MODEL_SECONDS + 120)


@pytest.fixture(scope="session")
def embedder(embedding_stack: LocalStack) -> Iterator[openai.OpenAI]:
    url = f"{embedding_stack.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def post(stack: LocalStack, **fields: Any) -> httpx.Response:
    return httpx.post(f"{stack.url}{PATH}", json={"model": MODEL} | fields, timeout=60)


def refused(stack: LocalStack, **fields: Any) -> dict[str, Any]:
    """The error of a request that must be a 400."""
    response = post(stack, **fields)
    assert response.status_code == 400, response.text[:300]
    assert_valid("ErrorResponse", response.json())
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_one_text(embedder: openai.OpenAI) -> None:
    raw = embedder.embeddings.with_raw_response.create(
        model=MODEL, input=CAT, encoding_format="float"
    )
    assert_valid("CreateEmbeddingResponse", json.loads(raw.text))
    answer = raw.parse()
    assert answer.model == MODEL
    assert [entry.index for entry in answer.data] == [0]
    assert len(answer.data[0].embedding) == DIMENSIONS
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1, abs=1e-3)
    assert 5 <= answer.usage.prompt_tokens == answer.usage.total_tokens <= 12


def test_a_paraphrase_is_nearer_than_another_topic(embedder: openai.OpenAI) -> None:
    answer = embedder.embeddings.create(model=MODEL, input=[CAT, CAT_AGAIN, UNRELATED])
    cat, again, unrelated = (entry.embedding for entry in answer.data)
    assert cosine(cat, again) > 0.5
    assert abs(cosine(cat, unrelated)) < 0.2


def test_several_texts_keep_their_order(embedder: openai.OpenAI) -> None:
    texts = [f"{CAT} Number {number}." for number in range(20)]
    together = embedder.embeddings.create(model=MODEL, input=texts)
    assert [entry.index for entry in together.data] == list(range(20))
    for number in (0, 7, 19):
        alone = embedder.embeddings.create(model=MODEL, input=texts[number])
        similarities = [cosine(entry.embedding, alone.data[0].embedding) for entry in together.data]
        assert max(similarities) > 0.999
        assert similarities.index(max(similarities)) == number
    singles = sum(
        embedder.embeddings.create(model=MODEL, input=text).usage.prompt_tokens for text in texts
    )
    assert together.usage.prompt_tokens == singles


def test_token_ids_are_as_good_as_their_text(
    embedder: openai.OpenAI, embedding_stack: LocalStack
) -> None:
    with EngineProbe(embedding_stack, MODEL) as engine:
        options = {"content": CAT, "add_special": True}
        ids = engine.client.post("/tokenize", json=options).raise_for_status().json()["tokens"]
    text = embedder.embeddings.create(model=MODEL, input=CAT).data[0].embedding
    one = embedder.embeddings.create(model=MODEL, input=ids)
    assert len(one.data) == 1
    assert cosine(one.data[0].embedding, text) > 0.99
    two = embedder.embeddings.create(model=MODEL, input=[ids, ids[:3]])
    assert [entry.index for entry in two.data] == [0, 1]
    assert cosine(two.data[0].embedding, text) > 0.99
    assert cosine(two.data[1].embedding, text) < 0.99


def test_base64_holds_the_same_numbers(
    embedder: openai.OpenAI, embedding_stack: LocalStack
) -> None:
    """The client asks for base64 by itself when nobody says otherwise, and decodes it."""
    response = post(embedding_stack, input=[CAT, UNRELATED], encoding_format="base64")
    answer = response.json()
    floats = embedder.embeddings.create(
        model=MODEL, input=[CAT, UNRELATED], encoding_format="float"
    )
    for entry, expected in zip(answer["data"], floats.data, strict=True):
        packed = base64.b64decode(entry["embedding"], validate=True)
        numbers = list(struct.unpack(f"<{DIMENSIONS}f", packed))
        assert numbers == pytest.approx(expected.embedding, abs=1e-4)
        entry["embedding"] = numbers
    assert_valid("CreateEmbeddingResponse", answer)
    decoded = embedder.embeddings.create(model=MODEL, input=CAT).data[0].embedding
    assert decoded == pytest.approx(floats.data[0].embedding, abs=1e-4)
    explicit: Any = embedder.embeddings.create(model=MODEL, input=CAT, encoding_format="base64")
    assert isinstance(explicit.data[0].embedding, str)


async def test_async_client(embedder: openai.OpenAI) -> None:
    url = str(embedder.base_url)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = await client.embeddings.create(model=MODEL, input=CAT)
    same = embedder.embeddings.create(model=MODEL, input=CAT)
    assert cosine(answer.data[0].embedding, same.data[0].embedding) > 0.999


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_only_the_models_own_dimensions_can_be_had(
    embedding_stack: LocalStack, encoding: str
) -> None:
    same = post(embedding_stack, input=CAT, dimensions=DIMENSIONS, encoding_format=encoding)
    assert same.status_code == 200
    for dimensions in (1, 256, 385):
        error = refused(embedding_stack, input=CAT, dimensions=dimensions, encoding_format=encoding)
        assert error["param"] == "dimensions"
        assert "384" in error["message"]


def test_too_long_an_input_is_400_with_both_numbers(embedding_stack: LocalStack) -> None:
    error = refused(embedding_stack, input="word " * 600)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"
    assert "512" in error["message"]
    assert "602" in error["message"] or "600" in error["message"]
    assert refused(embedding_stack, input=[CAT, "word " * 600])["param"] == "input"
    assert post(embedding_stack, input="word " * 500).status_code == 200


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("input", {}),
        ("input", {"input": ""}),
        ("input", {"input": []}),
        ("input", {"input": [""]}),
        ("input", {"input": [[]]}),
        ("input", {"input": [CAT, 5]}),
        ("input", {"input": {"text": CAT}}),
        ("input", {"input": 5}),
        ("input", {"input": [1.5]}),
        ("input", {"input": [-1]}),
        ("input", {"input": [10**6]}),
        ("input", {"input": [CAT] * 2049}),
        ("encoding_format", {"input": CAT, "encoding_format": "int8"}),
        ("dimensions", {"input": CAT, "dimensions": 0}),
        ("dimensions", {"input": CAT, "dimensions": "384"}),
        ("user", {"input": CAT, "user": 5}),
    ],
)
def test_malformed_requests_name_the_parameter(
    embedding_stack: LocalStack, param: str, fields: dict[str, Any]
) -> None:
    assert str(refused(embedding_stack, **fields)["param"]).split("[")[0] == param


def test_harmless_parameters_pass(embedding_stack: LocalStack) -> None:
    answer = post(embedding_stack, input=CAT, user="me", dimensions=None, encoding_format=None)
    assert answer.status_code == 200
    assert isinstance(answer.json()["data"][0]["embedding"], list)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (
            "/v1/chat/completions",
            {"model": MODEL, "messages": [{"role": "user", "content": CAT}]},
            "embeddings",
        ),
        (
            "/v1/chat/completions",
            {"model": MODEL, "messages": [{"role": "user", "content": CAT}], "stream": True},
            "embeddings",
        ),
        ("/v1/completions", {"model": MODEL, "prompt": CAT}, "embeddings"),
        (PATH, {"model": "tiny", "input": CAT}, "text"),
    ],
)
def test_a_model_of_the_other_kind_is_400_and_says_where_to_go(
    embedding_stack: LocalStack, path: str, body: dict[str, Any], sentence: str
) -> None:
    response = httpx.post(f"{embedding_stack.url}{path}", json=body, timeout=30)
    assert response.status_code == 400
    assert_valid("ErrorResponse", response.json())
    error = response.json()["error"]
    assert error["param"] == "model"
    assert f"'{body['model']}'" in error["message"]
    assert sentence in error["message"]
    assert "/v1/" in error["message"]


def test_unknown_model_is_404_and_lists_both(embedding_stack: LocalStack) -> None:
    response = post(embedding_stack, model="text-embedding-3-small", input=CAT)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


def test_without_embeddings_the_model_is_unknown(stack: LocalStack) -> None:
    response = httpx.post(f"{stack.url}{PATH}", json={"model": MODEL, "input": CAT})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_large_request_is_served_beside_small_ones(embedder: openai.OpenAI) -> None:
    texts = [f"{number} bottles of water" for number in range(300)]
    answer = embedder.embeddings.create(model=MODEL, input=texts)
    assert [entry.index for entry in answer.data] == list(range(300))
    assert cosine(answer.data[0].embedding, answer.data[299].embedding) < 0.999
