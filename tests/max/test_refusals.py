"""What MAX cannot do is a 400 that names the parameter; some of it the gateway knows, some MAX."""

from typing import Any

import httpx
import pytest

from tests.e2e.test_parameters import CAPITAL, CHAT, GET_TIME, GET_WEATHER, PLACE_FORMAT, TEXT
from tests.e2e.test_refused_parameters import LOOK, REFERENCE, TOOL
from tests.max.test_answers import CHATS, GREEDY, TEXTS
from tests.wire import assert_valid

PLAIN: dict[str, dict[str, Any]] = {
    CHAT: GREEDY | {"messages": CAPITAL},
    TEXT: GREEDY | {"prompt": "The"},
}


def parts(**part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "audio", {"audio": {"voice": "alloy", "format": "wav"}}),
    (CHAT, "function_call", {"function_call": "auto"}),
    (CHAT, "functions", {"functions": [LOOK]}),
    (CHAT, "logit_bias", {"logit_bias": {"300": -100}}),
    (CHAT, "modalities", {"modalities": ["text", "audio"]}),
    (CHAT, "moderation", {"moderation": {"model": "omni-moderation-latest"}}),
    (CHAT, "n", {"n": 2}),
    (CHAT, "parallel_tool_calls", {"tools": [TOOL], "parallel_tool_calls": False}),
    (CHAT, "prediction", {"prediction": {"type": "content", "content": "The capital"}}),
    (CHAT, "reasoning_effort", {"reasoning_effort": "low"}),
    (CHAT, "service_tier", {"service_tier": "flex"}),
    (CHAT, "store", {"store": True}),
    (CHAT, "tool_choice", {"tools": [TOOL], "tool_choice": "required"}),
    (
        CHAT,
        "tool_choice",
        {
            "tools": [GET_WEATHER, GET_TIME],
            "tool_choice": {"type": "function", "function": {"name": "get_time"}},
        },
    ),
    (CHAT, "verbosity", {"verbosity": "low"}),
    (CHAT, "web_search_options", {"web_search_options": {}}),
    (CHAT, "messages", parts(type="input_audio", input_audio={"data": "AA==", "format": "wav"})),
    (CHAT, "messages", parts(type="file", file={"file_id": "x"})),
    (CHAT, "chat_template_kwargs", {"chat_template_kwargs": {"chat_template": "x"}}),
    (CHAT, "prompt_tokens", {"prompt_tokens": [99999]}),
    (CHAT, "target_endpoint", {"target_endpoint": "x"}),
    (CHAT, "dkv_cache_hint", {"dkv_cache_hint": {}}),
    (TEXT, "best_of", {"best_of": 2}),
    (TEXT, "echo", {"echo": True}),
    (TEXT, "echo", {"echo": True, "logprobs": 2}),
    (TEXT, "logit_bias", {"logit_bias": {"300": -100}}),
    (TEXT, "logprobs", {"logprobs": 0}),
    (TEXT, "logprobs", {"logprobs": 2}),
    (TEXT, "n", {"n": 2}),
    (TEXT, "suffix", {"suffix": " the end."}),
    (TEXT, "prompt", {"prompt": [5, 6, 7]}),
    (TEXT, "prompt", {"prompt": [99999]}),
    (TEXT, "prompt", {"prompt": [[5], [6]]}),
    (TEXT, "prompt", {"prompt": ["The", "A"]}),
]
"""By the gateway, from MAX's row in the table of engines."""

REFUSED_BY_MAX: list[tuple[str, str, dict[str, Any]]] = [
    (CHAT, "response_format", {"response_format": {"type": "json_object"}}),
    (CHAT, "response_format", {"response_format": PLACE_FORMAT}),
    (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": 8}),
    (CHAT, "grammar", {"grammar": 'root ::= "a"'}),
    (CHAT, "n_predict", {"n_predict": 3}),
    (CHAT, "messages", parts(type="image_url", image_url={"url": "http://127.0.0.1:1/x.png"})),
    (CHAT, "messages", parts(type="video_url", video_url={"url": "http://127.0.0.1:1/x.mp4"})),
    (CHAT, "tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    (
        CHAT,
        "messages",
        {
            "messages": [
                *CAPITAL,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": LOOK | {"arguments": "{"}}
                    ],
                },
            ]
        },
    ),
    (TEXT, "response_format", {"response_format": {"type": "json_object"}}),
    (TEXT, "top_k", {"top_k": "x"}),
]
"""In a sentence of its own, which the gateway reads (inference/complaints)."""

HARMLESS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"user": "me"}),
    (CHAT, {"metadata": {"job": "1"}}),
    (CHAT, {"safety_identifier": "me"}),
    (CHAT, {"prompt_cache_key": "k"}),
    (CHAT, {"prompt_cache_retention": "24h"}),
    (CHAT, {"prompt_cache_options": {"mode": "implicit"}}),
    (CHAT, {"store": False}),
    (CHAT, {"service_tier": "auto"}),
    (CHAT, {"modalities": ["text"]}),
    (CHAT, {"logprobs": False}),
    (CHAT, {"logit_bias": {}}),
    (CHAT, {"tools": [], "parallel_tool_calls": True}),
    (CHAT, {"tool_choice": "none"}),
    (CHAT, {"reasoning_effort": "none", "verbosity": "medium"}),
    (TEXT, {"user": "me"}),
    (TEXT, {"echo": False, "best_of": 1, "suffix": None, "logit_bias": {}}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "param", "fields"), REFUSED + REFUSED_BY_MAX)
def test_what_cannot_be_honoured_is_400_and_named(
    gateway: str, path: str, param: str, fields: dict[str, Any], stream: bool
) -> None:
    body = PLAIN[path] | fields | {"stream": stream}
    response = httpx.post(f"{gateway}{path}", json=body, timeout=30)
    assert response.status_code == 400, response.text[:200]
    assert_valid("ErrorResponse", response.json())
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param in error["message"] or param == "messages"


@pytest.mark.parametrize(("path", "fields"), HARMLESS)
def test_harmless_parameters_change_nothing(
    gateway: str, path: str, fields: dict[str, Any]
) -> None:
    answers = []
    for more in ({}, fields):
        response = httpx.post(f"{gateway}{path}", json=PLAIN[path] | more, timeout=30)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        answers.append(choice.get("text") or choice["message"]["content"])
    assert answers[0] == answers[1] != ""


def test_every_parameter_of_the_reference_is_honoured_or_refused_or_harmless() -> None:
    """The honoured ones are those that `test_answers` asks with."""
    common = {"model", "stream", "stream_options", "temperature"}
    for path, requests in ((CHAT, CHATS), (TEXT, TEXTS)):
        honoured = {name for request in requests.values() for name in request} | common
        refused = {param for where, param, _ in REFUSED if where == path}
        harmless = {name for where, fields in HARMLESS if where == path for name in fields}
        assert REFERENCE[path] <= honoured | refused | harmless
