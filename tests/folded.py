"""An independent reading of answers, plain or streamed, in one form that can be compared.

Shares nothing with the gateway's own folding, on purpose.
"""

import json
import math
from typing import Any

Json = dict[str, Any]


def read_events(text: str) -> list[Json]:
    """The chunks of an event stream that ended well: every event is one `data:` line."""
    events = text.split("\n\n")
    assert events.pop() == "", "the last event is complete"
    assert events.pop() == "data: [DONE]"
    for event in events:
        assert event.startswith("data: {"), event
        assert "\n" not in event
    return [json.loads(event.removeprefix("data: ")) for event in events]


def from_stream(chunks: list[Json]) -> Json:
    """What a stream said in all; one id, one end for each choice."""
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices: dict[int, Json] = {}
    usage = None
    for chunk in chunks:
        if not chunk["choices"]:
            assert chunk is chunks[-1], "usage is the last word"
            usage = chunk["usage"]
        for piece in chunk["choices"]:
            choice = choices.setdefault(piece["index"], _nothing())
            assert choice["finish_reason"] is None, "nothing comes after the end of a choice"
            choice["finish_reason"] = piece["finish_reason"]
            delta = piece.get("delta", {})
            choice["text"] += piece.get("text") or delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                _add_call(choice["calls"], call)
            choice["logprobs"] += _tokens(piece.get("logprobs"))
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage}


def from_plain(answer: Json) -> Json:
    """What a plain answer said."""
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    choices = []
    for choice in answer["choices"]:
        message = choice.get("message", {})
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        choices.append(
            {
                "text": choice.get("text") or message.get("content") or "",
                "calls": [[call["name"], call["arguments"]] for call in calls],
                "logprobs": _tokens(choice.get("logprobs")),
                "finish_reason": choice["finish_reason"],
            }
        )
    return {"choices": choices, "usage": answer["usage"]}


def assert_equal(one: Any, other: Any, where: str = "$") -> None:
    """Equal but for the last digits of numbers, which depend on how the engine batched."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        assert math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3), f"{where}: {one}, {other}"
        return
    assert type(one) is type(other), f"{where}: {one!r}, {other!r}"
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), f"{where}: {one}, {other}"
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert one == other, where


def _nothing() -> Json:
    return {"text": "", "calls": [], "logprobs": [], "finish_reason": None}


def _add_call(calls: list[list[str]], piece: Json) -> None:
    function = piece.get("function", {})
    if piece["index"] == len(calls):
        assert piece["id"], "a call's first piece has its id"
        assert piece["type"] == "function"
        calls.append([function["name"], ""])
    else:
        assert piece["index"] == len(calls) - 1, "calls come one after the other"
        assert not function.get("name"), "a name comes once"
    calls[-1][1] += function.get("arguments") or ""


def _tokens(logprobs: Json | None) -> list[Any]:
    """Both shapes of log probabilities as one list: token, its own, those of the alternatives."""
    if logprobs is None:
        return []
    if "content" not in logprobs:
        legacy = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        return [list(row) for row in zip(*(logprobs[name] for name in legacy), strict=True)]
    return [
        [
            token["token"],
            token["logprob"],
            token["bytes"],
            {other["token"]: other["logprob"] for other in token["top_logprobs"]},
        ]
        for token in logprobs["content"] or ()
    ]
