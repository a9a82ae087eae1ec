"""A kept answer says the same as a stream, and a stream the same as the answer that is kept."""

import json
from typing import Any

import pytest

from api_server.services.answer_cache.replay import Tape, as_stream
from api_server.services.requests import Generation, Kind
from api_server.services.usage import UsageTally
from tests.folded import assert_equal, from_plain, from_stream, read_events
from tests.wire import assert_valid

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def generation(kind: Kind = Kind.CHAT, *, wants_usage: bool = True) -> Generation:
    return Generation(kind=kind, model="m", fields={}, is_stream=True, wants_usage=wants_usage)


def chat(*choices: dict[str, Any]) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 17, "model": "m"}
    whole = []
    for index, each in enumerate(choices):
        message = {"role": "assistant", "content": None, "refusal": None} | each.pop("message")
        choice = {"index": index, "logprobs": None, "finish_reason": "stop", "message": message}
        whole.append(choice | each)
    return {**head, "choices": whole, "usage": USAGE}


def call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{name}", "type": "function", "function": function}


def token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


LONG = "A text of some length, with ümläuts and 🎉. " * 20
ARGUMENTS = json.dumps({"city": "Zürich", "days": list(range(60))})
ANSWERS = {
    "text": chat({"message": {"content": LONG}}),
    "empty": chat({"message": {"content": ""}}),
    "choices": chat({"message": {"content": "a"}}, {"message": {"content": "b"}}),
    "tools": chat(
        {
            "message": {"tool_calls": [call("f", ARGUMENTS), call("g", "")]},
            "finish_reason": "tool_calls",
        }
    ),
    "logprobs": chat(
        {
            "message": {"content": "Hi you"},
            "logprobs": {"content": [token("Hi"), token(" you")], "refusal": None},
        }
    ),
    "logprobs of half letters": chat(
        {
            "message": {"content": "ü"},
            "logprobs": {"content": [token("\ufffd"), token("\ufffd")], "refusal": None},
        }
    ),
    "reasoning": chat({"message": {"content": "4", "reasoning_content": LONG}}),
}
TEXTS = {
    "text": {"index": 0, "text": LONG, "logprobs": None, "finish_reason": "length"},
    "logprobs": {
        "index": 0,
        "text": "Hi you",
        "logprobs": {
            "tokens": ["Hi", " you"],
            "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{"Hi": -0.1}, {" you": -0.2}],
            "text_offset": [0, 2],
        },
        "finish_reason": "stop",
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_chat_says_the_same_as_a_stream(name: str) -> None:
    answer = ANSWERS[name]
    chunks = read_events(b"".join(as_stream(answer, generation())).decode())
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk)
        assert (chunk["id"], chunk["created"]) == (answer["id"], answer["created"])
    assert_equal(from_stream(chunks), from_plain(answer))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_says_the_same_as_a_stream(name: str) -> None:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 17, "model": "m"}
    answer = {**head, "choices": [TEXTS[name]], "usage": USAGE}
    chunks = read_events(b"".join(as_stream(answer, generation(Kind.TEXT))).decode())
    for chunk in chunks:
        assert chunk["object"] == "text_completion"
    assert_equal(from_stream(chunks), from_plain(answer))


def test_usage_comes_only_where_it_is_asked_for() -> None:
    events = b"".join(as_stream(ANSWERS["text"], generation(wants_usage=False)))
    assert b'"usage"' not in events
    assert events.endswith(b"data: [DONE]\n\n")


def test_what_engines_say_beside_the_answer_comes_with_the_end() -> None:
    answer = ANSWERS["choices"] | {"timings": {"prompt_ms": 1.5}}
    chunks = read_events(b"".join(as_stream(answer, generation())).decode())
    assert [chunk["timings"] for chunk in chunks if "timings" in chunk] == [{"prompt_ms": 1.5}]


def taped(events: bytes, *, ends: bool = True, max_bytes: int = 100_000) -> Any:
    tape = Tape(Kind.CHAT, max_bytes)
    for event in events.split(b"\n\n")[:-1]:
        tape.add(event + b"\n\n")
    if ends:
        tally = UsageTally(1)
        tally.add(USAGE)
        tape.end(tally)
    answer = tape.answer()
    return None if answer is None else json.loads(answer)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_recorded_stream_is_the_plain_answer(name: str) -> None:
    for wants_usage in (True, False):
        events = b"".join(as_stream(ANSWERS[name], generation(wants_usage=wants_usage)))
        kept = taped(events)
        assert_valid("CreateChatCompletionResponse", kept)
        details = {"prompt_tokens_details": {"cached_tokens": 0}}
        assert_equal(from_plain(kept), from_plain(ANSWERS[name]) | {"usage": USAGE | details})
        assert kept["id"] == ANSWERS[name]["id"]


def test_what_did_not_end_well_is_not_kept() -> None:
    events = b"".join(as_stream(ANSWERS["text"], generation()))
    assert taped(events, ends=False) is None
    assert taped(events, max_bytes=len(events) - 1) is None
    assert taped(events.replace(b'"finish_reason":"stop"', b'"finish_reason":null')) is None
    assert taped(b"data: <<<>>>\n\n" + events) is None
    assert taped(b"data: [DONE]\n\n") is None
