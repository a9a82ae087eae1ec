"""llama-server's log probabilities in OpenAI's shapes."""

from typing import Any

from api_server.services.logprobs import LogprobsShape
from api_server.services.requests import Kind
from tests.wire import assert_valid


def engine_token(token: str, logprob: float, *others: tuple[str, float]) -> dict[str, Any]:
    alternatives = [(token, logprob), *others]
    return _one(token, logprob) | {"top_logprobs": [_one(*other) for other in alternatives]}


def _one(token: str, logprob: float) -> dict[str, Any]:
    return {"id": 7, "token": token, "bytes": list(token.encode()), "logprob": logprob}


def chunk(*tokens: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "logprobs": {"content": list(tokens)}}]}


def reshaped(shape: LogprobsShape, piece: dict[str, Any]) -> Any:
    shape.reshape(piece)
    return piece["choices"][0]["logprobs"]


def test_chats_get_as_many_alternatives_as_they_asked_for() -> None:
    token = engine_token("Hi", -0.1, ("Ho", -2.0))
    none = reshaped(LogprobsShape(Kind.CHAT, 0), chunk(token))
    assert none["content"] == [
        {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    ]
    one = reshaped(LogprobsShape(Kind.CHAT, 1), chunk(token))
    assert [other["token"] for other in one["content"][0]["top_logprobs"]] == ["Hi"]


def test_texts_get_parallel_lists_with_running_offsets() -> None:
    shape = LogprobsShape(Kind.TEXT, 2)
    first = reshaped(shape, chunk(engine_token("Hä", -0.1, ("Ho", -2.0))))
    other_choice = reshaped(shape, chunk(engine_token("x", -0.3), index=1))
    second = reshaped(shape, chunk(engine_token("y", -0.2)))
    assert first == {
        "tokens": ["Hä"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"Hä": -0.1, "Ho": -2.0}],
        "text_offset": [0],
    }
    assert other_choice["text_offset"] == [0]
    assert second["text_offset"] == [2]


def test_chunks_without_any_stay_as_they_are() -> None:
    piece: dict[str, Any] = {"choices": [{"index": 0, "logprobs": None, "text": "x"}]}
    before = {"choices": [dict(piece["choices"][0])]}
    LogprobsShape(Kind.TEXT, 1).reshape(piece)
    assert piece == before
    LogprobsShape(Kind.TEXT, 1).reshape({"choices": None})


def test_a_folded_answer_is_a_valid_one() -> None:
    shape = LogprobsShape(Kind.TEXT, 1)
    piece = chunk(engine_token("a", -0.5))
    shape.reshape(piece)
    answer = {
        "id": "c",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [piece["choices"][0] | {"text": "a", "finish_reason": "stop"}],
    }
    assert_valid("CreateCompletionResponse", answer)
