"""The route of embeddings in front of an engine that says what the test wants."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server.errors import ContextLengthError
from api_server.inference.handlers.engine_client import EngineClient
from tests.fake_engine import running_engine
from tests.integration.conftest import running_gateway
from tests.samples import samples

ANSWER = {"data": [{"embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running_engine() as engine:
        replicas = [f"http://127.0.0.1:{engine.port}"]
        models = [
            {"id": "fake", "replicas": replicas, "serves": "embeddings"},
            {"id": "chat", "replicas": replicas},
        ]
        async with (
            running_gateway(tmp_path, engine, models=models) as (_, url),
            httpx.AsyncClient(base_url=url) as client,
        ):
            yield client


def says(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    async def ask(*_: object) -> bytes:
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    monkeypatch.setattr(EngineClient, "ask", ask)


async def embed(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/embeddings", json={"model": "fake", "input": "hi"} | fields)


async def test_usage_is_counted_once_and_the_answer_passes_as_it_came(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, ANSWER)
    response = await embed(http, dimensions=2)
    assert (response.status_code, response.json()) == (200, ANSWER)
    got = samples((await http.get("/metrics")).content)
    assert got["gen_ai_client_token_usage_total", "fake", "input"] == 3
    assert got["gen_ai_server_request_duration_seconds_count", "", "embeddings", "fake"] == 1
    assert got["llm_gateway_in_flight", "fake", "generating"] == 0


@pytest.mark.parametrize(
    ("vector", "status"), [([0.5, 0.5], 400), ("AAAAPwAAAD8=", 400), ([0.5] * 3, 200)]
)
async def test_other_dimensions_than_asked_for_are_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, vector: object, status: int
) -> None:
    says(monkeypatch, {"data": [{"embedding": vector}]})
    response = await embed(http, dimensions=3)
    assert response.status_code == status
    if status == 400:
        error = response.json()["error"]
        assert error["param"] == "dimensions"
        assert "have 2 dimensions" in error["message"]


@pytest.mark.parametrize("dimensions", [None, 2])
@pytest.mark.parametrize("answer", [b"", b"no JSON", b'{"data": ', b'{"error": {}}'])
async def test_what_is_no_answer_is_the_engines_error(
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    dimensions: int | None,
) -> None:
    says(monkeypatch, answer)
    response = await embed(http, dimensions=dimensions)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_error")


async def test_too_long_an_input_names_the_parameter(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, ContextLengthError(700, 512))
    error = (await embed(http)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


async def test_too_long_a_text_is_no_warning_of_the_engine(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A file for a vector store may have a thousand of them."""
    asked = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    for fault, code, lines in (
        ("too_long", "context_length_exceeded", 0),
        ("error_500", "engine_error", 1),
    ):
        caplog.clear()
        answer = await http.post("/v1/chat/completions", json=asked | {"fault": fault})
        assert answer.json()["error"]["code"] == code
        warned = [each for each in caplog.records if each.levelname == "WARNING"]
        assert ["answered with an error" in each.message for each in warned].count(True) == lines


async def test_each_model_is_asked_on_its_own_route(http: httpx.AsyncClient) -> None:
    wrong = await embed(http, model="chat")
    assert wrong.status_code == 400
    assert "/v1/chat/completions" in wrong.json()["error"]["message"]
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    wrong = await http.post("/v1/chat/completions", json=body)
    assert wrong.status_code == 400
    assert "/v1/embeddings" in wrong.json()["error"]["message"]
