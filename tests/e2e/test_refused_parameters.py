"""What cannot be honoured is a 400 that names the parameter; what is harmless passes.

Never is a parameter of OpenAI's reference silently ignored where the answer should depend on it.
"""

from typing import Any

import httpx
import openai
import pytest

from tests.e2e.test_parameters import CHATS, TEXTS
from tests.local_stack import LocalStack
from tests.wire import assert_valid

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": LOOK}
PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": CAPITAL},
    TEXT: {"model": "tiny", "prompt": "The"},
}

REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "audio", {"audio": {"voice": "alloy", "format": "wav"}}),
    (CHAT, "modalities", {"modalities": ["text", "audio"]}),
    (CHAT, "modalities", {"modalities": ["audio"]}),
    (CHAT, "web_search_options", {"web_search_options": {}}),
    (CHAT, "prediction", {"prediction": {"type": "content", "content": "The capital"}}),
    (CHAT, "functions", {"functions": [LOOK]}),
    (CHAT, "function_call", {"function_call": "auto"}),
    (CHAT, "function_call", {"function_call": {"name": "look"}}),
    (CHAT, "reasoning_effort", {"reasoning_effort": "low"}),
    (CHAT, "reasoning_effort", {"reasoning_effort": "high"}),
    (CHAT, "verbosity", {"verbosity": "low"}),
    (CHAT, "verbosity", {"verbosity": "high"}),
    (CHAT, "store", {"store": True}),
    (CHAT, "service_tier", {"service_tier": "flex"}),
    (CHAT, "service_tier", {"service_tier": "priority"}),
    (CHAT, "moderation", {"moderation": {"model": "omni-moderation-latest"}}),
    (CHAT, "logprobs", {"logprobs": 5}),
    (CHAT, "logprobs", {"logprobs": "yes"}),
    (CHAT, "top_logprobs", {"top_logprobs": 2}),
    (CHAT, "top_logprobs", {"logprobs": False, "top_logprobs": 2}),
    (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": -1}),
    (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": "2"}),
    (CHAT, "tools", {"tools": [{"type": "custom", "custom": {"name": "look"}}]}),
    (CHAT, "tool_choice", {"tool_choice": "required"}),
    (CHAT, "tool_choice", {"tools": [TOOL], "tool_choice": "sometimes"}),
    (
        CHAT,
        "tool_choice",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "smell"}}},
    ),
    (
        CHAT,
        "tool_choice",
        {
            "tools": [TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [TOOL]},
            },
        },
    ),
    (CHAT, "response_format", {"response_format": {"type": "json_schema"}}),
    (CHAT, "response_format", {"response_format": {"type": "json_schema", "json_schema": {}}}),
    (CHAT, "response_format", {"response_format": {"type": "yaml"}}),
    (CHAT, "stream_options", {"stream_options": {"include_usage": True}}),
    (CHAT, "n", {"n": 0}),
    (CHAT, "n", {"n": 129}),
    (CHAT, "max_tokens", {"max_tokens": 0}),
    (CHAT, "max_completion_tokens", {"max_completion_tokens": -1}),
    (CHAT, "temperature", {"temperature": 2.1}),
    (CHAT, "top_p", {"top_p": 1.1}),
    (CHAT, "presence_penalty", {"presence_penalty": 3}),
    (CHAT, "frequency_penalty", {"frequency_penalty": -3}),
    (CHAT, "stop", {"stop": [1]}),
    (CHAT, "seed", {"seed": "x"}),
    (CHAT, "logit_bias", {"logit_bias": {"5": 101}}),
    (CHAT, "logit_bias", {"logit_bias": [5]}),
    (CHAT, "parallel_tool_calls", {"tools": [TOOL], "parallel_tool_calls": "no"}),
    (CHAT, "messages", {"messages": []}),
    (
        CHAT,
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://x/x.png"}}],
                }
            ]
        },
    ),
    (
        CHAT,
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
                    ],
                }
            ]
        },
    ),
    (TEXT, "echo", {"echo": True}),
    (TEXT, "suffix", {"suffix": " the end."}),
    (TEXT, "best_of", {"best_of": 2}),
    (TEXT, "logprobs", {"logprobs": True}),
    (TEXT, "logprobs", {"logprobs": 6}),
    (TEXT, "logprobs", {"logprobs": -1}),
    (TEXT, "prompt", {"prompt": []}),
    (TEXT, "prompt", {"prompt": ["The", 5]}),
    (TEXT, "prompt", {"prompt": {"text": "The"}}),
]

HARMLESS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"user": "me"}),
    (CHAT, {"metadata": {"job": "1"}}),
    (CHAT, {"safety_identifier": "me"}),
    (CHAT, {"prompt_cache_key": "k"}),
    (CHAT, {"prompt_cache_retention": "24h"}),
    (CHAT, {"prompt_cache_options": {"mode": "implicit"}}),
    (CHAT, {"store": False}),
    (CHAT, {"service_tier": "auto"}),
    (CHAT, {"service_tier": "default"}),
    (CHAT, {"modalities": ["text"]}),
    (CHAT, {"response_format": {"type": "text"}}),
    (CHAT, {"logprobs": False}),
    (CHAT, {"tools": [], "parallel_tool_calls": True}),
    (CHAT, {"tool_choice": "none"}),
    (CHAT, {"tool_choice": "auto"}),
    (TEXT, {"user": "me"}),
    (TEXT, {"echo": False, "best_of": 1, "suffix": None}),
]

CHAT_FIELDS = """
audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty
prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format
safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
top_logprobs top_p user verbosity web_search_options
"""
TEXT_FIELDS = """
best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed
stop stream stream_options suffix temperature top_p user
"""
REFERENCE = {CHAT: frozenset(CHAT_FIELDS.split()), TEXT: frozenset(TEXT_FIELDS.split())}
"""The fields of CreateChatCompletionRequest and CreateCompletionRequest in version 2.3.0."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "param", "fields"), REFUSED)
def test_what_cannot_be_honoured_is_400_and_named(
    stack: LocalStack, path: str, param: str, fields: dict[str, Any], stream: bool
) -> None:
    if param == "stream_options" and stream:
        fields = {"stream_options": {"include_usage": "yes"}}
    body = PLAIN[path] | fields | {"stream": stream}
    response = httpx.post(f"{stack.url}{path}", json=body, timeout=30)
    assert response.status_code == 400, response.text[:200]
    assert_valid("ErrorResponse", response.json())
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].split(".")[0].split("[")[0] == param
    assert param in error["message"] or error["param"] == "messages"


@pytest.mark.parametrize(("path", "fields"), HARMLESS)
def test_harmless_parameters_change_nothing(
    stack: LocalStack, path: str, fields: dict[str, Any]
) -> None:
    answers = []
    for more in ({}, fields):
        response = httpx.post(f"{stack.url}{path}", json=PLAIN[path] | more, timeout=30)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        answers.append(choice.get("text") or choice["message"]["content"])
    assert answers[0] == answers[1] != ""


def test_null_is_as_good_as_absent(stack: LocalStack) -> None:
    for path, required in ((CHAT, {"model", "messages"}), (TEXT, {"model", "prompt"})):
        nothing = dict.fromkeys(REFERENCE[path] - required)
        response = httpx.post(f"{stack.url}{path}", json=nothing | PLAIN[path], timeout=30)
        assert response.status_code == 200, response.text


def test_every_parameter_of_the_reference_is_honoured_or_refused_or_harmless() -> None:
    """The honoured ones are those that `test_parameters` asks with."""
    common = {"model", "stream", "stream_options", "temperature"}
    for path, requests in ((CHAT, CHATS), (TEXT, TEXTS)):
        honoured = {name for request in requests.values() for name in request} | common
        refused = {param for where, param, _ in REFUSED if where == path}
        harmless = {name for where, fields in HARMLESS if where == path for name in fields}
        assert REFERENCE[path] <= honoured | refused | harmless


def test_official_client_tells_the_parameter(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello!"}],
            reasoning_effort="high",
        )
    assert caught.value.param == "reasoning_effort"
    assert caught.value.type == "invalid_request_error"
