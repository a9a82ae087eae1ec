"""A client sees the engine's bytes, with usage where and when OpenAI puts it."""

import json
from typing import Any

from api_server.inference import sse
from api_server.services.logprobs import LogprobsShape
from api_server.services.relaying import OutgoingEvents
from api_server.services.requests import Kind
from api_server.services.usage import UsageTally

DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c"} | fields).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, Any]:
    details = {"cached_tokens": 1}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


def sent(blocks: list[bytes], *, wants_usage: bool, n: int = 1) -> list[Any]:
    events = OutgoingEvents(wants_usage=wants_usage, choices_per_prompt=n)
    out = b"".join(events.outgoing(block) for block in blocks)
    return [json.loads(d) if d != sse.DONE else "done" for d in sse.payloads(out)]


def test_what_is_not_looked_at_is_the_same_bytes() -> None:
    block = event(choices=[{"delta": {"content": 'says "usage": and [DON'}}])
    block += b": ping\n\n"
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=1)
    assert events.outgoing(block) is block


def test_usage_is_dropped_unless_asked_for() -> None:
    blocks = [
        event(choices=[{"finish_reason": "stop"}]),
        event(choices=[], usage=usage(3, 2)),
        DONE,
    ]
    assert sent(blocks, wants_usage=False) == [
        {"id": "c", "choices": [{"finish_reason": "stop"}]},
        "done",
    ]
    assert sent(blocks, wants_usage=True)[1:] == [
        {"id": "c", "choices": [], "usage": usage(3, 2)},
        "done",
    ]


def test_usage_inside_the_last_choice_is_moved_to_an_event_of_its_own() -> None:
    last = event(choices=[{"text": "", "finish_reason": "stop"}], usage=usage(3, 2))
    seen = sent([last + DONE], wants_usage=True)
    assert "usage" not in seen[0]
    assert seen[1]["choices"] == []
    assert seen[1]["usage"]["completion_tokens"] == 2


def test_usage_of_several_choices_is_one_sum_with_the_prompt_counted_once() -> None:
    blocks = [event(choices=[], usage=usage(24, 2)), event(choices=[], usage=usage(24, 5)), DONE]
    seen = sent(blocks, wants_usage=True, n=2)
    assert seen == [{"id": "c", "choices": [], "usage": usage(24, 7)}, "done"]


def test_usage_of_several_prompts_adds_the_prompts() -> None:
    tally = UsageTally(1)
    tally.add(usage(3, 2))
    tally.add(usage(4, 2))
    assert (tally.prompt_tokens, tally.completion_tokens) == (7, 4)
    assert UsageTally(1).total() is None


def test_null_event_before_several_prompts_is_dropped() -> None:
    assert sent([b"data: null\n\n", DONE], wants_usage=False) == ["done"]


def test_finish_reason_is_noted() -> None:
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=1)
    events.outgoing(b'data: {"choices":[{"finish_reason":"length","delta":{}}]}\n\n')
    assert events.finish_reason == "length"


def piece(index: int, text: str) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def test_no_choice_begins_before_those_of_lower_index() -> None:
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=3)
    assert events.outgoing(piece(1, "a") + piece(2, "b") + piece(1, "c")) == b""
    begun = piece(0, "d") + piece(1, "a") + piece(1, "c") + piece(2, "b")
    assert events.outgoing(piece(0, "d")) == begun
    assert events.outgoing(piece(2, "e")) == piece(2, "e")


def test_what_is_held_back_goes_out_at_the_end() -> None:
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=2)
    assert events.outgoing(piece(1, "a")) == b""
    assert events.outgoing(b"data: [DONE]\n\n") == piece(1, "a") + b"data: [DONE]\n\n"


def test_all_events_of_a_stream_have_the_date_of_the_first() -> None:
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=1, has_one_date=False)
    text = rb'"delta":{"content":"say \"created\":7 now"}'
    first = b'data: {"created":100,"choices":[]}\n\n'
    assert events.outgoing(first) == first
    later = b'data: {"created":101,"choices":[{' + text + b"}]}\n\n"
    assert events.outgoing(later + first) == later.replace(b":101", b":100") + first


def test_every_event_of_a_stream_with_log_probabilities_is_rewritten() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "id": 7, "top_logprobs": []}
    events = OutgoingEvents(
        wants_usage=False, choices_per_prompt=1, shape=LogprobsShape(Kind.CHAT, 0)
    )
    block = event(choices=[{"index": 0, "delta": {}, "logprobs": {"content": [token]}}])
    (data,) = sse.payloads(events.outgoing(block))
    logprobs = json.loads(data)["choices"][0]["logprobs"]
    assert logprobs["refusal"] is None
    assert "id" not in logprobs["content"][0]


def test_events_with_content_are_counted_where_no_usage_comes() -> None:
    """Looked at one by one or as blocks, it is the same count."""
    pieces = [
        event(choices=[{"index": 0, "delta": {"role": "assistant", "content": None}}]),
        event(choices=[{"index": 0, "delta": {"content": "a"}}]),
        b": ping\n\n",
        event(choices=[{"index": 0, "delta": {"content": 'data: "role":\n\n'}}]),
        event(choices=[{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        DONE,
    ]
    pieces = [piece.replace(b'": ', b'":') for piece in pieces]
    for blocks in (pieces, [b"".join(pieces[:5]), b"".join(pieces[5:])], [b"".join(pieces)]):
        for n in (1, 2):
            events = OutgoingEvents(wants_usage=False, choices_per_prompt=n)
            for block in blocks:
                events.outgoing(block)
            assert events.content_events == 3


def test_an_empty_first_event_is_no_content() -> None:
    events = OutgoingEvents(wants_usage=False, choices_per_prompt=1)
    events.outgoing(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
    assert events.content_events == 0
