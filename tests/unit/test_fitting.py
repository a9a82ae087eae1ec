"""Which messages go when a chat does not fit."""

import json
from typing import Any

import msgspec

from api_server.errors import ContextLengthError
from api_server.inference.shortening import TRIES, answer_room, keep_newest
from api_server.services.fitting import shorten
from api_server.services.requests import Generation, parse_chat

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
    messages = [
        *conversation("system", "assistant"),
        said("assistant", "2" * 50, tool_calls=CALL),
        said("tool", "3" * 50, tool_call_id="c"),
        said("tool", "4" * 50, tool_call_id="d"),
    ]
    assert kept(messages, 0.0) == [0, 2, 3, 4], "results without their call"


def test_a_result_without_a_call_goes_alone() -> None:
    messages = conversation("user", "tool", "user")
    assert kept(messages, 0.7) == [1, 2]


def test_room_is_left_for_an_answer() -> None:
    assert answer_room(1000, 100) == 100
    assert answer_room(1000, None) == 250
    assert answer_room(1000, 5000) == 500


def chat(*roles: str) -> Generation:
    return parse_chat(json.dumps({"model": "m", "messages": conversation(*roles)}).encode())


def test_as_many_go_as_the_engines_count_asks_for() -> None:
    generation = chat("user", "assistant", "user", "assistant", "user")
    assert shorten(generation, ContextLengthError(1500, 1000), 1) == 3
    assert json.loads(bytes(generation.fields["messages"])) == [
        said("assistant", "3" * 50),
        said("user", "4" * 50),
    ]
    assert shorten(generation, ContextLengthError(3000, 1000), 2) == 1
    assert shorten(generation, ContextLengthError(3000, 1000), 3) == 0, "nothing more may go"


def test_the_last_try_drops_all_that_may_go() -> None:
    generation = chat("user", "assistant", "user", "assistant", "user")
    assert shorten(generation, ContextLengthError(1001, 1000), TRIES) == 4


def test_an_engine_that_tells_no_numbers_gets_the_shortest_chat() -> None:
    assert shorten(chat("user", "assistant", "user"), ContextLengthError(None, None), 1) == 2
