"""A folded stream is the answer that a plain request would have had."""

from typing import Any

import msgspec
import pytest

from api_server.errors import InferenceError
from api_server.inference.chunks import decode
from api_server.services.folding import Fold
from api_server.services.requests import Kind
from api_server.services.usage import guessed_prompt_tokens


def chunk(delta: dict[str, Any], index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": None} | more
    return {"id": "c1", "object": "chat.completion.chunk", "created": 7, "choices": [choice]}


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{",
        b"7",
        b'{"choices": {}}',
        b'{"choices": [1]}',
        b'{"choices": [{"delta": "x"}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": 1000000000}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": {}}}]}',
        b'{"choices": [{"logprobs": "x"}]}',
        b'{"choices": [], "usage": {"prompt_tokens": "many"}}',
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_chunk_is_the_engines_error(data: bytes) -> None:
    with pytest.raises(InferenceError):
        decode(data)


def test_null_and_chunks_of_unknown_fields_are_chunks() -> None:
    assert decode(b"null") is None
    assert decode(b'{"choices": null, "x": 1}') == {"choices": None, "x": 1}


def fold(kind: Kind, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    result = Fold(kind)
    for piece in chunks:
        result.add(piece)
    return result.answer()


def test_text_is_joined() -> None:
    answer = fold(
        Kind.CHAT,
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"content": "Hel"}),
            chunk({"content": "lo"}),
            chunk({}, finish_reason="stop"),
            {"id": "c1", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        ],
    )
    assert answer["object"] == "chat.completion"
    assert answer["id"] == "c1"
    assert answer["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_tool_calls_are_joined_by_index() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index} | fields]})

    answer = fold(
        Kind.CHAT,
        [
            call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
            call(0, function={"arguments": '{"x"'}),
            call(1, id="b", type="function", function={"name": "g", "arguments": "{"}),
            call(0, function={"arguments": ": 1}"}),
            call(1, function={"arguments": "}"}),
            chunk({}, finish_reason="tool_calls"),
        ],
    )
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_choices_interleave_and_come_out_in_order() -> None:
    answer = fold(
        Kind.CHAT,
        [
            chunk({"content": "b"}, 1),
            chunk({"content": "a"}, 0),
            chunk({"content": "B"}, 1),
            chunk({}, 0, finish_reason="stop"),
            chunk({}, 1, finish_reason="length"),
        ],
    )
    assert [c["message"]["content"] for c in answer["choices"]] == ["a", "bB"]
    assert [c["finish_reason"] for c in answer["choices"]] == ["stop", "length"]


def test_log_probabilities_are_appended() -> None:
    answer = fold(
        Kind.CHAT,
        [
            chunk({"content": "a"}, logprobs={"content": [{"token": "a"}], "refusal": None}),
            chunk({"content": "b"}, logprobs={"content": [{"token": "b"}], "refusal": None}),
        ],
    )
    expected = {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}
    assert answer["choices"][0]["logprobs"] == expected


def test_fields_beyond_openai_are_kept() -> None:
    answer = fold(
        Kind.CHAT,
        [
            chunk({"reasoning_content": "hm"}),
            chunk({"reasoning_content": "m"}) | {"timings": {"a": 1}},
        ],
    )
    assert answer["choices"][0]["message"]["reasoning_content"] == "hmm"
    assert answer["timings"] == {"a": 1}


def test_text_completions_fold_too() -> None:
    pieces = [
        {"id": "t", "choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        {"id": "t", "choices": [{"index": 0, "text": "b", "finish_reason": "length"}]},
    ]
    answer = fold(Kind.TEXT, pieces)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "ab"


def test_pieces_with_content_are_counted() -> None:
    result = Fold(Kind.CHAT)
    for delta in ({"role": "assistant", "content": None}, {"content": "a"}, {"content": "b"}, {}):
        result.add({"choices": [{"index": 0, "delta": delta}]})
    assert result.content_events == 2
    text = Fold(Kind.TEXT)
    for piece in ("", "a"):
        text.add({"choices": [{"index": 0, "text": piece}]})
    assert text.content_events == 1


def test_a_long_prompt_is_guessed_without_being_read() -> None:
    words = ["hello"] * 100_000
    long = msgspec.Raw(msgspec.json.encode([{"role": "user", "content": " ".join(words)}]))
    assert 100_000 < guessed_prompt_tokens({"messages": long}) < 200_000
    assert guessed_prompt_tokens({"prompt": msgspec.Raw(b"[1,2,3]")}) == 3
    assert guessed_prompt_tokens({"prompt": msgspec.Raw(b"[[1,2,3],[4,5,6]]")}, 2) == 6
