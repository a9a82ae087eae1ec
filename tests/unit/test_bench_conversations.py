"""The workload of the affinity benchmark, and what is counted of it."""

from collections import Counter
from itertools import islice

import pytest

from benchmarks.affinity import in_turn, replicas_in
from benchmarks.conversations import (
    Conversation,
    Round,
    Turn,
    disagreement,
    found_by_chance,
    order_of_turns,
    table,
)


def test_each_conversation_has_all_its_turns_by_chance_but_always_the_same() -> None:
    order = order_of_turns(20, 8, seed=1)
    assert Counter(order) == dict.fromkeys(range(20), 8)
    assert order == order_of_turns(20, 8, seed=1)
    assert order != order_of_turns(20, 8, seed=2)
    assert order[:20] != sorted(order[:20])


def test_what_was_asked_or_answered_before_can_be_repeated() -> None:
    conversation = Conversation(3)
    first = list(conversation.ask())
    assert [each["role"] for each in first] == ["system", "user"]
    assert conversation.answered("Paris.", prompt_tokens=50, answer_tokens=4) == 0
    second = list(conversation.ask())
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": "Paris."}
    assert conversation.answered("Cold.", prompt_tokens=80, answer_tokens=3) == 54
    assert conversation.answered("Green.", prompt_tokens=60, answer_tokens=3) == 60


def test_no_two_conversations_begin_alike() -> None:
    begins = [[each["content"] for each in Conversation(n).ask()] for n in range(20)]
    assert len({system for system, _ in begins}) == 20
    assert len({question for _, question in begins}) == 20


def turn(repeatable: int, cached: int, seconds: float = 1.0) -> Turn:
    return Turn(repeatable + 50, repeatable, cached, seconds)


def test_what_all_conversations_share_is_not_repeated() -> None:
    assert turn(0, 5).repeated == 0
    assert turn(100, 104).repeated == 100
    assert turn(100, 60).repeated == 60


@pytest.mark.parametrize(("cached", "expected"), [(0, False), (94, False), (95, True), (99, True)])
def test_an_older_part_of_a_history_is_not_all_of_it(cached: int, expected: bool) -> None:
    assert turn(100, cached).is_whole is expected


def test_shares_and_unevenness_of_a_round() -> None:
    found = Round([turn(0, 7), turn(100, 99), turn(100, 51)], requests=[3, 1, 2, 2])
    assert found.share == 0.75
    assert found.unevenness == pytest.approx(1.5)
    assert Round([turn(0, 7)], requests=[1, 0]).share == 0


def test_table_adds_rounds_up_and_names_the_lowest() -> None:
    one = Round([turn(0, 7, 0.1), turn(100, 100, 0.2)], requests=[1, 1])
    two = Round([turn(0, 0, 0.3), turn(300, 150, 0.4)], requests=[2, 0])
    assert table({"x": [one, two]}).splitlines()[2] == (
        "| x | 400 | 250 | 62% | 50% | 50% | 1.50 | 250 |"
    )


def test_counters_must_tell_what_the_answers_told() -> None:
    turns = [turn(0, 7), turn(100, 99)]
    assert disagreement(turns, cached=106, computed=94) is None
    assert "106" in (disagreement(turns, cached=105, computed=94) or "")
    assert "94" in (disagreement(turns, cached=106, computed=93) or "")


def test_by_chance_a_second_turn_finds_its_engine_once_in_so_many_times() -> None:
    assert found_by_chance(4, 2) == pytest.approx(1 / 4)
    assert found_by_chance(1, 8) == pytest.approx(1)
    # 3 turns, 2 engines: 1/2 of the first; of two turns both, one (the older) or none.
    assert found_by_chance(2, 3) == pytest.approx((1 / 2 + (1 / 2) * 2 + (1 / 4) * 1) / 3)


def test_requests_are_counted_by_engine() -> None:
    asked: Counter[str] = Counter()
    urls = ["http://a:1", "http://b:2"]
    assert list(islice(in_turn(urls, asked), 3)) == ["http://a:1", "http://b:2", "http://a:1"]
    assert asked == {"a:1": 2, "b:2": 1}
    log = b'{"message":"ready"}\n{"message":"request","replica":"a:1"}\n'
    assert replicas_in(log * 2) == {"a:1": 2}
