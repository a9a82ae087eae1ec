"""The gateway's API with MAX behind it: what is honoured, asked as a client would."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.test_parameters import (
    CAPITAL,
    CHAT,
    GET_WEATHER,
    HELLO_PROMPT,
    STORY,
    STORY_PROMPT,
    TEXT,
    WEATHER,
    assert_valid_events,
    assert_valid_plain,
    method,
)
from tests.folded import Json, assert_equal, from_plain, from_stream, read_events
from tests.max.engine import CONTEXT_TOKENS
from tests.wire import assert_valid

CHATS: dict[str, Json] = {
    "nothing else": {"messages": CAPITAL},
    "developer": {"messages": [{"role": "developer", "content": "Be kind."}, *CAPITAL]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]},
    "earlier turns": {"messages": [*CAPITAL, {"role": "assistant", "content": "Paris."}, *STORY]},
    "top_p": {"messages": STORY, "top_p": 0.5},
    "stop, a string": {"messages": STORY, "stop": "the"},
    "stop, a list": {"messages": STORY, "stop": ["zzz", " robot", "sea"]},
    "stop at once": {"messages": CAPITAL, "stop": "The"},
    "stop across tokens": {"messages": STORY, "stop": "small robot. It l"},
    "stop that never comes": {"messages": CAPITAL, "stop": "Pari!"},
    "max_tokens": {"messages": STORY, "max_tokens": 7},
    "max_completion_tokens": {"messages": STORY, "max_completion_tokens": 7},
    "n of one": {"messages": CAPITAL, "n": 1},
    "seed": {"messages": STORY, "seed": 7, "temperature": 1.5},
    "seed 0": {"messages": STORY, "seed": 0, "temperature": 1.5},
    "presence_penalty": {"messages": STORY, "presence_penalty": 2, "max_tokens": 60},
    "frequency_penalty": {"messages": STORY, "frequency_penalty": 2, "max_tokens": 60},
    "logprobs": {"messages": CAPITAL, "logprobs": True},
    "top_logprobs": {"messages": CAPITAL, "logprobs": True, "top_logprobs": 5},
    "top_logprobs and stop": {
        "messages": STORY,
        "logprobs": True,
        "top_logprobs": 2,
        "stop": " robot. It",
    },
    "text format": {"messages": CAPITAL, "response_format": {"type": "text"}},
    "tools": {"messages": WEATHER, "tools": [GET_WEATHER]},
    "tools that are not needed": {"messages": CAPITAL, "tools": [GET_WEATHER]},
    "tool_choice none": {"messages": WEATHER, "tools": [GET_WEATHER], "tool_choice": "none"},
    "tool_choice auto": {"messages": WEATHER, "tools": [GET_WEATHER], "tool_choice": "auto"},
}
TEXTS: dict[str, Json] = {
    "a prompt": {"prompt": HELLO_PROMPT},
    "a list of one": {"prompt": [HELLO_PROMPT]},
    "stop, a string": {"prompt": STORY_PROMPT, "stop": "a small", "max_tokens": 40},
    "stop, a list": {"prompt": STORY_PROMPT, "stop": ["zzz", " was"]},
    "max_tokens": {"prompt": STORY_PROMPT, "max_tokens": 40},
    "n of one": {"prompt": HELLO_PROMPT, "n": 1},
    "top_p": {"prompt": STORY_PROMPT, "top_p": 0.5},
    "seed": {"prompt": STORY_PROMPT, "seed": 7, "temperature": 1.5},
    "penalties": {"prompt": STORY_PROMPT, "presence_penalty": 1, "frequency_penalty": 1},
}
REQUESTS = [
    *(pytest.param(CHAT, request, id=f"chat: {name}") for name, request in CHATS.items()),
    *(pytest.param(TEXT, request, id=f"text: {name}") for name, request in TEXTS.items()),
]
GREEDY: Json = {"model": "tiny", "temperature": 0}


def _without_count(said: Json) -> Json:
    """Before MAX sees a stop sequence it makes a token more or none, as it happens."""
    assert said["usage"]["completion_tokens"] > 0
    return said | {"usage": said["usage"]["prompt_tokens"]}


def ask(gateway: str, path: str, **fields: Any) -> Json:
    """A plain answer, which must be one."""
    response = httpx.post(f"{gateway}{path}", json=GREEDY | fields, timeout=60)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    assert_valid_plain(path, answer)
    return answer


def said(gateway: str, **fields: Any) -> str:
    """The text of a chat's one choice."""
    text: str = ask(gateway, CHAT, **fields)["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize(("path", "request_"), REQUESTS)
async def test_plain_and_streamed_sync_and_async_say_the_same(
    gateway: str,
    client: openai.OpenAI,
    async_client: openai.AsyncOpenAI,
    path: str,
    request_: Json,
) -> None:
    def assert_same(other: Json) -> None:
        assert_equal(_without_count(other) if "stop" in request_ else other, plain)

    fields = GREEDY | request_
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    raw = method(client, path).with_raw_response.create(**fields)
    answer = json.loads(raw.text)
    assert_valid_plain(path, answer)
    plain = from_plain(answer)
    if "stop" in request_:
        plain = _without_count(plain)

    response = httpx.post(f"{gateway}{path}", json=fields | with_usage, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = read_events(response.text)
    assert_valid_events(path, chunks)
    assert_same(from_stream(chunks))
    assert len({chunk["created"] for chunk in chunks}) == 1

    async_plain = await method(async_client, path).create(**fields)
    assert_same(from_plain(async_plain.model_dump(mode="json", exclude_unset=True)))
    events = await method(async_client, path).create(**fields, **with_usage)
    async_chunks = [event.model_dump(mode="json", exclude_unset=True) async for event in events]
    assert_same(from_stream(async_chunks))


def test_it_answers_right_and_counts(gateway: str) -> None:
    answer = ask(gateway, CHAT, messages=CAPITAL)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["prompt_tokens"] > usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_tells_its_usage_only_when_asked(gateway: str, path: str) -> None:
    request = {"messages": CAPITAL} if path == CHAT else {"prompt": HELLO_PROMPT}
    chunks = read_events(
        httpx.post(f"{gateway}{path}", json=GREEDY | request | {"stream": True}).text
    )
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)
    assert len(chunks) > 1, "it came in pieces"


@pytest.mark.parametrize("stop", ["robot", ["zzz", "robot", "sea"], "small robot. It l"])
def test_stop_ends_the_answer_before_itself(gateway: str, stop: Any) -> None:
    full = said(gateway, messages=STORY)
    first = stop if isinstance(stop, str) else "robot"
    assert first in full
    cut = ask(gateway, CHAT, messages=STORY, stop=stop)["choices"][0]
    assert cut["message"]["content"] == full.split(first)[0]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_completion_tokens": 1}]
)
def test_limits_are_exact(gateway: str, limits: dict[str, int]) -> None:
    answer = ask(gateway, CHAT, messages=STORY, **limits)
    assert answer["usage"]["completion_tokens"] == next(iter(limits.values()))
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_newer_limit_wins_and_texts_have_one_of_their_own(gateway: str) -> None:
    newer = ask(gateway, CHAT, messages=STORY, max_tokens=9, max_completion_tokens=4)
    assert newer["usage"]["completion_tokens"] == 4
    assert ask(gateway, TEXT, prompt=STORY_PROMPT)["usage"]["completion_tokens"] == 16
    assert ask(gateway, CHAT, messages=STORY)["usage"]["completion_tokens"] > 50


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1}])
def test_a_seed_repeats_an_answer_and_others_vary_it(gateway: str, sampling: Json) -> None:
    """Also 0, which means chance to MAX, and without a temperature, where MAX would be greedy."""

    def answer(seed: int) -> str:
        body = {"model": "tiny", "prompt": "The", "seed": seed} | sampling
        text: str = httpx.post(f"{gateway}{TEXT}", json=body).json()["choices"][0]["text"]
        return text

    answers = {seed: answer(seed) for seed in (0, 1, 2, 3, -1, 2**63 - 1, -(2**63))}
    assert {seed: answer(seed) for seed in answers} == answers
    assert len(set(answers.values())) > 3


def test_temperature_0_takes_the_likeliest(gateway: str) -> None:
    answers = {said(gateway, messages=STORY, seed=seed) for seed in range(4)}
    assert len(answers) == 1


def test_penalties_weigh_on_what_was_said(gateway: str) -> None:
    def words(**fields: float) -> list[str]:
        text: str = ask(gateway, TEXT, prompt="The", max_tokens=60, **fields)["choices"][0]["text"]
        return text.split()

    repeating, varied = words(frequency_penalty=-2), words(presence_penalty=2)
    assert len(set(repeating)) < len(set(varied))
    assert words() not in (repeating, varied)


@pytest.mark.parametrize("top", [0, 1, 7])
def test_log_probabilities_of_a_chat(gateway: str, top: int) -> None:
    choice = ask(gateway, CHAT, messages=CAPITAL, logprobs=True, top_logprobs=top)["choices"][0]
    tokens = choice["logprobs"]["content"]
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode()
    assert text == choice["message"]["content"]
    for token in tokens:
        values = [alternative["logprob"] for alternative in token["top_logprobs"]]
        assert len(values) == top
        assert values == sorted(values, reverse=True)
        assert all(value <= 0 for value in [*values, token["logprob"]])


def test_tool_calls_come_as_the_text_that_the_model_wrote(gateway: str) -> None:
    """MAX has no parser for this model's, and parses none of any Llama in a stream."""
    for fields in ({}, {"tool_choice": "auto"}):
        choice = ask(gateway, CHAT, messages=WEATHER, tools=[GET_WEATHER], **fields)["choices"][0]
        assert '"name": "get_weather"' in choice["message"]["content"]
        assert "tool_calls" not in choice["message"]
    assert "get_weather" not in said(
        gateway, messages=WEATHER, tools=[GET_WEATHER], tool_choice="none"
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_prompt_that_does_not_fit_is_an_error_with_both_numbers(
    gateway: str, path: str, stream: bool
) -> None:
    long = "word " * 800
    prompt = {"messages": [{"role": "user", "content": long}]} if path == CHAT else {"prompt": long}
    body = GREEDY | prompt | {"stream": stream}
    response = httpx.post(f"{gateway}{path}", json=body, timeout=30)
    assert response.status_code == 400
    assert_valid("ErrorResponse", response.json())
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == next(iter(prompt))
    assert f"holds {CONTEXT_TOKENS} tokens" in error["message"]
    assert "your input has 8" in error["message"]


def test_an_unknown_model_is_404_and_lists_the_known_ones(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError, match="Known models: tiny") as caught:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
