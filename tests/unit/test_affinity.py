"""What the requests of one conversation have in common."""

import json
from typing import Any

from api_server.inference.affinity import MAX_BYTES, TEXT_BYTES
from api_server.services.affinity import prefix_of
from api_server.services.requests import parse_chat, parse_text


def chat(*messages: dict[str, Any], **fields: Any) -> bytes:
    body = {"model": "m", "messages": list(messages)} | fields
    return prefix_of(parse_chat(json.dumps(body).encode()))


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


SYSTEM, FIRST = said("system", "be kind"), said("user", "hi")


def test_a_conversation_keeps_its_prefix_from_turn_to_turn() -> None:
    turn = [SYSTEM, FIRST]
    later = [*turn, said("assistant", "hello"), said("user", "and?")]
    assert chat(*turn) == chat(*later) != b""


def test_conversations_differ_by_their_first_question_or_their_system_prompt() -> None:
    assert chat(SYSTEM, FIRST) != chat(SYSTEM, said("user", "ho"))
    assert chat(SYSTEM, FIRST) != chat(said("system", "be rude"), FIRST)


def test_the_first_question_counts_after_a_system_prompt_of_any_length() -> None:
    for length in (1000, 2048, 10_000, 1_000_000):
        long = said("system", "x" * length)
        assert chat(long, FIRST) != chat(long, said("user", "ho"))
        assert chat(long, FIRST) == chat(long, FIRST, said("assistant", "hello"))
        assert chat(long, FIRST) != chat(said("system", "x" * (length + 1)), FIRST)
        assert chat(long, FIRST) != chat(said("system", "x" * (length - 1) + "y"), FIRST)


def test_what_a_client_says_itself_comes_first() -> None:
    one = chat(SYSTEM, FIRST, prompt_cache_key="team-7")
    assert one == chat(said("user", "something else"), prompt_cache_key="team-7")
    assert one != chat(SYSTEM, FIRST, prompt_cache_key="team-8")


def test_a_prefix_is_bounded() -> None:
    long = said("user", "x" * 100_000)
    assert len(chat(SYSTEM, long)) < MAX_BYTES
    assert len(chat(*[said("system", "x" * 1000)] * 100, FIRST)) == MAX_BYTES
    assert len(chat(FIRST, prompt_cache_key="k" * 100_000)) <= MAX_BYTES


def test_a_text_is_known_by_how_it_begins() -> None:
    def text(prompt: object) -> bytes:
        return prefix_of(parse_text(json.dumps({"model": "m", "prompt": prompt}).encode()))

    story = "Once upon a time " * 100
    assert text(story) == text(story + "there was a king")
    assert len(text(story)) == TEXT_BYTES
    assert text("Once") != text("Never")
    assert text([1, 2, 3])
