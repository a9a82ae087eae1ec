"""What of runs is pure: what the model is asked, what is kept, what an answer brings."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from api_server.errors import InvalidRequestError, OverloadedError
from api_server.schemas.assistants import FileSearch, KeptAssistant
from api_server.schemas.runs import RunBody, ToolOutput, Wish
from api_server.services.runs.context import NOT_SHOWN, chat_body, chat_messages, within
from api_server.services.runs.endings import EXPIRED, Ending, close
from api_server.services.runs.hearing import Answer, Piece
from api_server.services.runs.hub import KEPT_EVENTS, Hub
from api_server.services.runs.objects import text_content, to_json
from api_server.services.runs.outputs import check_outputs
from api_server.services.runs.tools import Tools
from api_server.services.runs.wishes import wish_from
from api_server.stores.run_rows import Action, Event, Heard, Run, Step

AT = datetime(2026, 11, 21, tzinfo=UTC)
RUN = Run(
    "run_1", "thread_1", "a", None, "asst_1", AT, "in_progress", to_json(Wish("m")), "{}", "j", AT
)


def said(id_: str, role: Any, text: str, run_id: str | None = None) -> Heard:
    return Heard(id_, role, run_id, text_content(text))


def step(id_: str, type_: Any, details: Any, status: Any = "completed") -> Step:
    return Step(id_, "run_1", "thread_1", "asst_1", AT, type_, status, to_json(details))


def message_step(id_: str, message_id: str, status: Any = "completed") -> Step:
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    return step(id_, "message_creation", details, status)


def action(id_: str, step_id: str, output: str) -> Action:
    return Action(
        id_,
        "thread_1",
        "run_1",
        step_id,
        f"call_{id_}",
        "f",
        "{}",
        is_ours=False,
        status="completed",
        output=output,
        created_at=AT,
    )


def test_what_a_run_did_comes_in_its_order_and_only_if_completed() -> None:
    heard = [
        said("m1", "user", "hi"),
        said("m0", "assistant", "of another run", "run_0"),
        said("m2", "assistant", "I look.", "run_1"),
        said("m3", "assistant", "broken", "run_1"),
    ]
    calls = {"type": "tool_calls", "tool_calls": []}
    steps = [
        message_step("s1", "m2"),
        step("s2", "tool_calls", calls),
        step("s3", "tool_calls", calls, "failed"),
        message_step("s4", "m3", "failed"),
        step("s5", "tool_calls", calls, "in_progress"),
    ]
    actions = [action("a1", "s2", "1"), action("a2", "s2", "2"), action("a3", "s3", "3")]
    found = chat_messages("Be brief.", heard, "run_1", steps, actions)
    assert [each["role"] for each in found] == [
        *("system", "user", "assistant", "assistant", "tool", "tool"),
    ]
    assert found[3]["content"] == "I look."
    assert [call["id"] for call in found[3]["tool_calls"]] == ["call_a1", "call_a2"]
    assert [each["content"] for each in found[4:]] == ["1", "2"]


def test_a_thread_that_was_moved_in_with_an_image_can_go_on() -> None:
    """Nobody can send one here."""
    image = {"type": "image_file", "image_file": {"file_id": "f"}}
    text = {"type": "text", "text": {"value": "What is this?", "annotations": []}}
    heard = [Heard("m", "user", None, to_json([text, image]))]
    (message,) = chat_messages("", heard, "run_1", [], [])
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "text", "text": NOT_SHOWN},
    ]


def body_of(wish: dict[str, Any], *, is_first: bool, most: int | None = None) -> dict[str, Any]:
    told = msgspec.convert({"model": "m"} | wish, Wish)
    raw = chat_body(told, [], Tools(), is_first=is_first, most_tokens=most)
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


def test_a_choice_of_tools_is_for_the_first_answer() -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        wish = tools | {"tool_choice": choice}
        assert body_of(wish, is_first=True)["tool_choice"] == choice
        assert "tool_choice" not in body_of(wish, is_first=False)
    none = tools | {"tool_choice": "none", "parallel_tool_calls": False}
    body = body_of(none, is_first=False, most=7)
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("none", False)
    assert body["max_completion_tokens"] == 7
    assert body["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "tools" not in body_of({}, is_first=True)


def test_the_oldest_messages_go_first() -> None:
    messages = [{"role": "user", "content": f"{number} " + "word " * 50} for number in range(9)]
    kept = within(messages, 200)
    assert kept is not None
    assert 0 < len(kept) < 9
    assert kept == messages[-len(kept) :]
    assert within(messages, 10**6) == messages
    assert within(messages[:1], 10) is None


def test_what_is_not_asked_for_is_the_assistants() -> None:
    kept = KeptAssistant("m", instructions="one", temperature=0.5, tools=[FileSearch()])
    wish = wish_from(kept, RunBody(assistant_id="a", additional_instructions="two", top_p=0.0))
    assert (wish.model, wish.instructions, wish.temperature, wish.top_p) == (
        "m",
        "one\ntwo",
        0.5,
        0,
    )
    wish = wish_from(kept, RunBody(assistant_id="a", instructions="", temperature=0.0))
    assert (wish.instructions, wish.temperature) == ("", 0.0)
    assert (wish.parallel_tool_calls, len(wish.tools)) == (True, 1)
    wish = wish_from(
        kept, RunBody(assistant_id="a", model="n", tools=[], parallel_tool_calls=False)
    )
    assert (wish.model, wish.tools, wish.parallel_tool_calls) == ("n", [], False)


def test_all_outputs_and_no_others() -> None:
    one, two = ToolOutput("a", "1"), ToolOutput("b", "2")
    assert check_outputs(["a", "b"], [two, one]) == {"a": "1", "b": "2"}
    for wrong in ([one], [one, one], [one, two, two], [], [one, ToolOutput("c", "")]):
        with pytest.raises(InvalidRequestError, match="Expected tool outputs"):
            check_outputs(["a", "b"], wrong)


def test_an_answer_adds_up_whatever_its_pieces() -> None:
    answer, piece = Answer(), Piece()
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"content": "a\0b"},
        {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]
    for delta in deltas:
        answer.add({"choices": [{"delta": delta}]}, piece)
    answer.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}, piece)
    assert (answer.text, piece.text, answer.finish_reason) == ("ab", "ab", "tool_calls")
    assert [call["function"] for call in answer.calls] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert [(call["index"], call["is_new"]) for call in piece.calls] == [
        *((0, True), (0, False), (1, True), (0, False)),
    ]


def test_an_ending_ends_what_is_open() -> None:
    steps = [message_step("s1", "m1"), message_step("s2", "m2", "in_progress")]
    closed = close(RUN, EXPIRED, AT, steps=steps)
    assert [(each.id, each.status) for each in closed.steps] == [("s2", "expired")]
    assert [name for name, _ in closed.events] == ["thread.run.step.expired", "thread.run.expired"]
    assert (closed.run.can_resume, closed.run.failed_at) == (True, None)
    failed = close(RUN, Ending("failed", ("invalid_prompt", "why")), AT, steps=steps)
    assert failed.run.last_error == '{"code":"invalid_prompt","message":"why"}'
    assert failed.steps[0].last_error == '{"code":"server_error","message":"why"}'
    assert failed.run.failed_at == AT


def test_a_channel_keeps_what_no_row_has() -> None:
    hub = Hub(most=1)
    channel = hub.open("r", 10)
    channel.tell([Event(n, "e", "{}") for n in range(11, 11 + 2 * KEPT_EVENTS)])
    assert channel.after(9) is None
    found = channel.after(10)
    assert found is not None
    assert len(found) == 2 * KEPT_EVENTS
    channel.written(10 + KEPT_EVENTS)
    assert channel.after(10) is None
    assert channel.after(10 + KEPT_EVENTS) == found[KEPT_EVENTS:]
    assert channel.after(10**9) == []
    channel.tell([Event(n, "e", "{}") for n in range(3000, 3002 + KEPT_EVENTS)])
    channel.written(20 + KEPT_EVENTS)
    assert channel.after(20 + KEPT_EVENTS) is not None, "what is no row stays, however much it is"


def test_who_did_a_run_before_does_not_close_the_channel_of_who_does_it_now() -> None:
    hub = Hub()
    before, now = hub.open("r", 1), hub.open("r", 2)
    hub.close("r", before)
    assert hub.channel("r") is now
    hub.close("r", now)
    assert hub.channel("r") is None


def test_followers_have_a_bound_and_leave_room_when_they_go() -> None:
    hub = Hub(most=1)
    for _ in range(2):
        with hub.follow("r"), pytest.raises(OverloadedError), hub.follow("r"):
            pass
