"""The workload of the affinity benchmark, and what is counted of it."""

from collections import Counter

import pytest

from benchmarks.conversations import Conversation, Found, order_of_turns, table


def test_each_conversation_has_all_its_turns_by_chance_but_always_the_same() -> None:
    order = order_of_turns(20, 8, seed=1)
    assert Counter(order) == dict.fromkeys(range(20), 8)
    assert order == order_of_turns(20, 8, seed=1)
    assert order != order_of_turns(20, 8, seed=2)
    assert order[:20] != sorted(order[:20])


def test_what_was_asked_or_answered_before_can_be_repeated() -> None:
    conversation = Conversation(3, turns=2)
    first = list(conversation.ask())
    assert [each["role"] for each in first] == ["system", "user"]
    assert conversation.answered("Paris.", prompt_tokens=50, answer_tokens=4) == 0
    assert conversation.ask()[: len(first)] == first
    assert conversation.answered("Cold.", prompt_tokens=80, answer_tokens=3) == 54


def test_no_two_conversations_begin_alike() -> None:
    assert len({Conversation(n, 1).ask()[0]["content"] for n in range(20)}) == 20


def test_shares_and_unevenness() -> None:
    found = Found("x", repeatable=200, cached=150, prompts=[30, 10, 20, 20], first_token_seconds=1)
    assert found.share == 0.75
    assert found.unevenness == pytest.approx(1.5)
    assert "| x | 200 | 150 | 75% | 1.50 | 1000 |" in table([found])
