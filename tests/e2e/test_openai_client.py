"""The official client against the real engine: plain and streamed, sync and async."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.local_stack import LocalStack, eventually
from tests.wire import assert_valid

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]


def test_models_are_listed_and_found(client: openai.OpenAI, stack: LocalStack) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "llm-serving-stack"
    assert_valid("ListModelsResponse", httpx.get(f"{stack.url}/v1/models").json())


def test_unknown_model_is_404_and_lists_the_known_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as from_list:
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError) as from_chat:
        client.chat.completions.create(model="gpt-4", messages=CAPITAL)
    for caught in (from_list, from_chat):
        assert caught.value.code == "model_not_found"
        assert "'gpt-4'" in caught.value.message
        assert "Known models: tiny" in caught.value.message
        assert_valid("ErrorResponse", caught.value.response.json())


def test_plain_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=CAPITAL)
    assert_valid("CreateChatCompletionResponse", json.loads(raw.text))
    answer = raw.parse()
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_equals_the_plain_one(client: openai.OpenAI, stack: LocalStack) -> None:
    plain = client.chat.completions.create(model="tiny", messages=CAPITAL)
    body = {"model": "tiny", "messages": CAPITAL, "stream": True}
    options = {"stream_options": {"include_usage": True}}
    response = httpx.post(f"{stack.url}/v1/chat/completions", json=body | options)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [e.removeprefix("data: ") for e in response.text.split("\n\n") if e]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk)
    pieces = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
    assert "".join(pieces) == plain.choices[0].message.content
    assert len([p for p in pieces if p]) > 1, "it came in pieces"
    assert plain.usage is not None
    assert chunks[-1]["usage"]["completion_tokens"] == plain.usage.completion_tokens


def test_usage_comes_in_a_stream_only_when_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=CAPITAL, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_async_client_plain_and_streamed(async_client: openai.AsyncOpenAI) -> None:
    plain = await async_client.chat.completions.create(model="tiny", messages=CAPITAL)
    stream = await async_client.chat.completions.create(model="tiny", messages=CAPITAL, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == plain.choices[0].message.content


def test_text_completions_plain_and_streamed(client: openai.OpenAI) -> None:
    prompt = "<|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>"
    prompt += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    raw = client.completions.with_raw_response.create(model="tiny", prompt=prompt, max_tokens=20)
    assert_valid("CreateCompletionResponse", json.loads(raw.text))
    plain = raw.parse()
    assert plain.choices[0].text
    stream = client.completions.create(model="tiny", prompt=prompt, max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == plain.choices[0].text


def test_limits_and_stop_are_honoured(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(model="tiny", messages=CAPITAL, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 2
    stopped = client.chat.completions.create(model="tiny", messages=CAPITAL, stop=["Paris"])
    assert "Paris" not in (stopped.choices[0].message.content or "")


def test_prompt_that_does_not_fit_is_an_error_with_both_numbers(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=long)
    assert caught.value.code == "context_length_exceeded"
    assert "2048" in caught.value.message
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=long, stream=True)


def test_request_id_is_kept_or_made(stack: LocalStack) -> None:
    url = f"{stack.url}/v1/models"
    assert httpx.get(url, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    forged = httpx.get(url, headers={"x-request-id": 'a b"{}'}).headers["x-request-id"]
    assert forged.startswith("req_")


def test_each_request_is_one_json_line(stack: LocalStack) -> None:
    body = {"model": "tiny", "messages": CAPITAL}
    headers = {"x-request-id": "log-me"}
    httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers)

    def logged() -> list[dict[str, Any]]:
        lines = (stack.data_dir / "logs/gateway.log").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry.get("request_id") == "log-me"]

    eventually(lambda: bool(logged()), 2, "its line; lines are written a moment later, together")
    ours = logged()
    assert len(ours) == 1
    assert ours[0]["status"] == 200
    assert ours[0]["model"] == "tiny"
    assert ours[0]["completion_tokens"] > 0
    assert ours[0]["duration_ms"] >= ours[0]["first_token_ms"] > 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", 400, "invalid_request"),
    ],
)
def test_errors_wear_the_envelope(
    stack: LocalStack, method: str, path: str, status: int, code: str
) -> None:
    response = httpx.request(method, f"{stack.url}{path}")
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert_valid("ErrorResponse", response.json())


def test_health_says_what_a_person_wants_to_know(stack: LocalStack) -> None:
    health = httpx.get(f"{stack.url}/health").json()
    assert health["status"] == "ok"
    assert health["models"] == [{"id": "tiny", "is_ready": True}]
    assert "second" in health["uptime"] or "minute" in health["uptime"]
    assert httpx.get(f"{stack.url}/health/live").json() == {"status": "alive"}
