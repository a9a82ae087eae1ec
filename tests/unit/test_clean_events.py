"""Events of MAX become OpenAI's: nothing of a stop sequence, nothing after an end, nothing null."""

import json
from typing import Any

import pytest

from api_server.inference import sse
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER, MAX_SERVE, OPENAI
from api_server.services.clean_events import CleanEvents, Shape, StopCut, shape_of
from api_server.services.logprobs import LogprobsShape
from api_server.services.relaying import OutgoingEvents
from api_server.services.requests import Kind, parse_chat, parse_text
from tests.wire import assert_valid

DONE = b"data: [DONE]\n\n"
HEAD = {"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk"}


def model(engine: Any = MAX_SERVE, **defaults: Any) -> Model:
    return Model(id="m", engine=engine, replicas=("http://127.0.0.1:1",), defaults=defaults)


def shape(to: Model | None = None, **fields: Any) -> Shape | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return shape_of(parse_chat(json.dumps(body).encode()), to or model())


def token(text: str) -> dict[str, Any]:
    best = {"token": text, "bytes": list(text.encode()), "logprob": -0.1}
    return best | {"top_logprobs": [best]}


def event(text: str, reason: str | None = None, *, logprobs: bool = False) -> bytes:
    """As MAX writes one: what is null is not there."""
    choice: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": text}}
    if logprobs:
        choice["logprobs"] = {"content": [token(text)], "refusal": []}
    if reason:
        choice["finish_reason"] = reason
    return b"data: " + json.dumps(HEAD | {"choices": [choice]}).encode() + b"\n\n"


def sent(shape: Shape | None, *blocks: bytes) -> list[Any]:
    events = OutgoingEvents(wants_usage=True, choices_per_prompt=1, shape=shape)
    out = b"".join(events.outgoing(block) for block in (*blocks, DONE))
    chunks = [json.loads(data) for data in sse.payloads(out) if data != sse.DONE]
    for chunk in chunks:
        assert_valid("CreateChatCompletionStreamResponse", chunk)
    return chunks


def texts(chunks: list[Any]) -> list[str]:
    return [chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"]]


def test_what_is_left_out_is_filled_in() -> None:
    chunks = sent(shape(), event("a"), event("b", "length"))
    assert texts(chunks) == ["a", "b"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]


def test_nothing_is_held_back_without_a_stop_sequence() -> None:
    assert texts(sent(shape(), event("a"))) == ["a"]
    assert texts(sent(shape(stop=""), event("a"))) == ["a"]


@pytest.mark.parametrize(
    ("stop", "said"),
    [("c d", "ab "), (["zz", "c d"], "ab "), (["d", "c d"], "ab "), ("d", "ab c "), ("ab", "")],
)
def test_an_answer_ends_before_its_stop_sequence_and_nothing_follows(stop: Any, said: str) -> None:
    """MAX shows it, a token after it, and two ends."""
    blocks = [event("ab"), event(" c"), event(" d", "stop"), event("e", "stop")]
    chunks = sent(shape(stop=stop), *blocks)
    assert "".join(texts(chunks)) == said
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]


def test_what_only_looked_like_one_comes_later() -> None:
    chunks = sent(shape(stop="c d"), event("ab"), event(" c"), event(" e"), event("c", "stop"))
    assert texts(chunks) == ["ab", " ", "c e", "c"]


def test_a_models_default_is_a_stop_sequence_too() -> None:
    assert texts(sent(shape(model(stop="b")), event("abc", "length"))) == ["a"]
    assert texts(sent(shape(model(stop="b"), stop="c"), event("abc", "length"))) == ["ab"]


def test_log_probabilities_are_those_of_what_was_said() -> None:
    blocks = [event(text, logprobs=True) for text in ("a", " b", " c")]
    blocks += [event(" d", "stop", logprobs=True)]
    chunks = sent(shape(stop=" c d", logprobs=True, top_logprobs=0), *blocks)
    tokens = [
        token
        for chunk in chunks
        for token in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert [token["token"] for token in tokens] == ["a", " b"]
    assert tokens[0]["top_logprobs"] == []


def test_log_probabilities_of_several_tokens_in_one_event_are_told_apart() -> None:
    cut = StopCut(["bc"])
    assert cut.feed("xa", [token("x"), token("a")], is_last=False) == (
        "xa",
        [token("x"), token("a")],
    )
    assert cut.feed("yab", [token("y"), token("ab")], is_last=False) == ("ya", [token("y")])
    assert cut.feed("c", [token("c")], is_last=False) == ("", [])
    assert cut.has_stopped


def test_texts_lose_empty_log_probabilities() -> None:
    generation = parse_text(b'{"model": "m", "prompt": "hi"}')
    empty: dict[str, Any] = {
        "text_offset": None,
        "token_logprobs": [],
        "tokens": None,
        "top_logprobs": [],
    }
    chunk = {
        "choices": [{"index": 0, "text": "a", "logprobs": empty, "finish_reason": None}],
        "usage": None,
    }
    cleaner = shape_of(generation, model())
    assert cleaner is not None
    cleaner.reshape(chunk)
    whole = {"index": 0, "text": "a", "logprobs": None, "finish_reason": None}
    assert chunk == {"choices": [whole]}


def test_calls_of_tools_go_through() -> None:
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]}
    CleanEvents(Kind.CHAT, ["x"], None).reshape(chunk)
    assert chunk["choices"][0]["delta"]["tool_calls"] == [call]  # type: ignore[index]


def test_usage_comes_though_nothing_else_is_left() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = b"data: " + json.dumps(HEAD | {"choices": [], "usage": usage}).encode() + b"\n\n"
    chunks = sent(shape(stop="b"), event("a"), event("b", "stop"), event("c", "stop"), last)
    assert [bool(chunk["choices"]) for chunk in chunks] == [True, True, False]
    assert chunks[-1]["usage"]["total_tokens"] == 5


def test_other_engines_are_left_alone() -> None:
    assert shape(model(OPENAI), stop="x", logprobs=True) is None
    assert shape(model(LLAMA_SERVER), stop="x") is None
    assert isinstance(shape(model(LLAMA_SERVER), logprobs=True), LogprobsShape)
