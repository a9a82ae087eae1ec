"""Which messages go when a chat does not fit."""

import json
from typing import Any

import msgspec
import pytest

from api_server.errors import ContextLengthError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.services.fitting import TRIES, keep_newest, share_that_fits, shorten
from api_server.services.requests import parse_chat

CALL = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def said(role: str, content: str = "x" * 50, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | fields


def kept(messages: list[dict[str, Any]], share: float) -> list[int]:
    """The indexes of what stays."""
    raw = [msgspec.Raw(json.dumps(message).encode()) for message in messages]
    left = keep_newest(raw, share)
    return [raw.index(message) for message in left]


def conversation(*roles: str) -> list[dict[str, Any]]:
    return [said(role, f"{index}" * 50) for index, role in enumerate(roles)]


def test_the_oldest_go_first_and_no_more_than_needed() -> None:
    messages = conversation("user", "assistant", "user", "assistant", "user")
    assert kept(messages, 0.85) == [1, 2, 3, 4]
    assert kept(messages, 0.65) == [2, 3, 4]
    assert kept(messages, 1.0) == [1, 2, 3, 4], "one at least: the engine says that it is too long"


def test_system_and_last_user_message_stay_whatever_happens() -> None:
    messages = conversation("system", "user", "assistant", "developer", "user")
    assert kept(messages, 0.0) == [0, 3, 4]
    assert kept(conversation("system", "user"), 0.0) == [0, 1]
    assert kept(conversation("user"), 0.0) == [0]


def test_calls_and_their_results_go_together() -> None:
    messages = [
        said("user", "0" * 50),
        said("assistant", "1" * 50, tool_calls=CALL),
        said("tool", "2" * 50, tool_call_id="c"),
        said("tool", "3" * 50, tool_call_id="d"),
        said("assistant", "4" * 50),
        said("user", "5" * 50),
    ]
    for share in (0.75, 0.7, 0.6, 0.5):
        left = kept(messages, share)
        assert left in ([1, 2, 3, 4, 5], [4, 5], [5]), "results without their call"


def test_what_came_after_the_last_user_message_stays() -> None:
    messages = [
        said("user", "0" * 50),
        said("assistant", "1" * 50),
        said("user", "2" * 50),
        said("assistant", "3" * 50, tool_calls=CALL),
        said("tool", "4" * 50, tool_call_id="c"),
    ]
    assert kept(messages, 0.0) == [2, 3, 4]


def test_a_chat_without_a_user_keeps_its_last_message() -> None:
    assert kept(conversation("system", "assistant", "assistant"), 0.0) == [0, 2]


def test_room_is_left_for_an_answer() -> None:
    assert share_that_fits(2000, 1000, 100) == pytest.approx(0.45)
    assert share_that_fits(2000, 1000, None) == pytest.approx(0.375)
    assert share_that_fits(2000, 1000, 5000) == pytest.approx(0.25)
    assert share_that_fits(0, 1000, None) == 1.0


def too_long() -> ContextLengthError:
    return ContextLengthError("too long", prompt_tokens=3000, context_tokens=1000)


def model(overflow: Any) -> Model:
    return Model("m", LLAMA_SERVER, ("http://127.0.0.1:1",), context_overflow=overflow)


def chat(*roles: str) -> Any:
    return parse_chat(json.dumps({"model": "m", "messages": conversation(*roles)}).encode())


def test_a_generation_is_shortened_only_where_its_model_asks_for_it() -> None:
    generation = chat("user", "assistant", "user", "assistant", "user")
    with pytest.raises(ContextLengthError):
        shorten(generation, model("error"), too_long(), 1)
    assert shorten(generation, model("drop_oldest"), too_long(), 1) == 4
    assert json.loads(bytes(generation.fields["messages"])) == [said("user", "4" * 50)]
    with pytest.raises(ContextLengthError):
        shorten(generation, model("drop_oldest"), too_long(), 2)


def test_the_last_try_drops_all_that_may_go() -> None:
    generation = chat("user", "assistant", "user", "assistant", "user")
    nearly = ContextLengthError("too long", prompt_tokens=1001, context_tokens=1000)
    assert shorten(generation, model("drop_oldest"), nearly, TRIES) == 4
    with pytest.raises(ContextLengthError):
        shorten(chat("user", "user"), model("drop_oldest"), nearly, TRIES + 1)
