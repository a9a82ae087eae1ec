"""What load tests send, and when: the same for the same seed, as often as the rate says."""

import itertools
import json
import statistics
from dataclasses import replace
from typing import Any

import pytest

from load_tests.arrivals import KINDS, Kind, Shape, arrivals, mixed
from load_tests.configuration import Configuration, planned
from load_tests.probing import scenarios_of
from load_tests.scenarios import SCENARIOS
from load_tests.scenarios.ask import World

WORLD = World(model="m", embedding_model="e", salt="123456")


def _bodies(world: World, name: str, count: int = 40) -> list[bytes]:
    return [SCENARIOS[name](world, number).body for number in range(count)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_makes_the_same_requests(name: str) -> None:
    assert _bodies(WORLD, name) == _bodies(WORLD, name)
    assert _bodies(WORLD, name) != _bodies(replace(WORLD, seed=2), name)
    assert len(set(_bodies(WORLD, name))) == 40


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_runs_share_no_cold_prompt(name: str) -> None:
    other = replace(WORLD, salt="654321")
    assert not set(_bodies(WORLD, name)) & set(_bodies(other, name))


def _contents(body: bytes) -> list[str]:
    return [message["content"] for message in json.loads(body)["messages"]]


def test_cold_prompts_differ_from_their_first_words_on() -> None:
    beginnings = {_contents(body)[0][:12] for body in _bodies(WORLD, "medium")}
    assert len(beginnings) == 40
    assert not any(SCENARIOS["medium"](WORLD, number).is_warm for number in range(40))


def test_warm_prompts_share_all_but_their_question() -> None:
    world = replace(WORLD, cache="warm")
    asks = [SCENARIOS["medium"](world, number) for number in range(12)]
    assert [each.is_warm for each in asks] == [False] * 4 + [True] * 8
    first, later = (_contents(asks[number].body)[0].partition("Now say")[0] for number in (0, 4))
    assert first == later
    assert asks[0].body != asks[4].body


def test_a_turn_of_a_chat_begins_with_the_turn_before() -> None:
    asks = [SCENARIOS["chat"](WORLD, number) for number in range(64)]
    turns = [_contents(asks[8 * turn].body) for turn in range(4)]
    assert [len(turn) for turn in turns] == [2, 4, 6, 8]
    for before, after in itertools.pairwise(turns):
        assert after[: len(before)] == before
    assert [asks[8 * turn].is_warm for turn in range(4)] == [False, True, True, True]
    assert len({_contents(ask.body)[0] for ask in asks}) == 16  # conversations of 4 turns


@pytest.mark.parametrize("context", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - {"embeddings", "jobs"}))
def test_prompts_and_answers_fit_into_the_context(name: str, context: int) -> None:
    world = replace(WORLD, context_tokens=context, tokens_per_word=1.5, scale=4)
    for number in range(32):
        body = json.loads(SCENARIOS[name](world, number).body)
        words = sum(len(message["content"].split()) for message in body["messages"])
        assert 1.5 * words + body["max_tokens"] <= context


def test_lengths_of_answers_are_set_where_the_engine_can_and_nothing_shapes_them() -> None:
    world = replace(WORLD, takes_ignore_eos=True)
    forced = {
        name: json.loads(SCENARIOS[name](world, 0).body).get("ignore_eos", False)
        for name in SCENARIOS
    }
    free = {"short", "medium", "long", "chat", "retrieval", "cancellers"}
    assert {name for name, is_forced in forced.items() if is_forced} == free
    assert not any(b"ignore_eos" in SCENARIOS[name](WORLD, 0).body for name in SCENARIOS)


@pytest.mark.parametrize(("scale", "words"), [(1.0, 64), (0.5, 32), (3.0, 192)])
def test_prompts_are_as_long_as_asked_for_times_the_scale(scale: float, words: int) -> None:
    world = replace(WORLD, tokens_per_word=2.0, scale=scale)
    content = _contents(SCENARIOS["medium"](world, 0).body)[0]
    text = content.removeprefix(world.first_line("medium", 0)).partition(". Now say")[0]
    assert len(text.split()) == words
    assert json.loads(SCENARIOS["medium"](world, 0).body)["max_tokens"] == 48 * scale


def test_streams_ask_for_their_usage_and_nothing_else_does() -> None:
    for name in SCENARIOS:
        asked = SCENARIOS[name](WORLD, 0)
        wanted = {"include_usage": True} if asked.way == "stream" else None
        assert json.loads(asked.body).get("stream_options") == wanted


def test_cancellers_leave_in_the_middle() -> None:
    leaves = [SCENARIOS["cancellers"](WORLD, number).leave_after for number in range(50)]
    assert all(leave is not None and 1 <= leave <= 64 for leave in leaves)
    assert len(set(leaves)) > 10


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    times = list(arrivals(Shape("constant", 50, 200), seed=3))
    assert times == list(arrivals(Shape("constant", 50, 200), seed=3))
    assert times != list(arrivals(Shape("constant", 50, 200), seed=4))
    assert times == sorted(times)
    assert len(times) == pytest.approx(10_000, rel=0.04)  # four times its standard deviation
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # The standard deviation of exponential gaps is their mean; of even ones it is nothing.
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_follow_the_shape(kind: Kind) -> None:
    shape = Shape(kind, 100, 100)
    times = list(arrivals(shape, seed=1))
    for tenth in range(10):
        expected = 10 * statistics.mean(shape.at(10 * tenth + step / 10) for step in range(100))
        found = sum(10 * tenth <= time < 10 * tenth + 10 for time in times)
        assert abs(found - expected) <= 4 * expected**0.5


def test_shapes_are_what_their_names_say() -> None:
    def levels(kind: Kind) -> list[float]:
        shape = Shape(kind, 10, 100)
        return [shape.at(second) for second in (0, 25, 50, 75, 99, 100)]

    assert levels("constant") == levels("soak") == [10, 10, 10, 10, 10, 0]
    assert levels("step") == [2, 4, 6, 8, 10, 0]
    assert levels("ramp") == [0, 2.5, 5, 7.5, 9.9, 0]
    assert levels("spike") == [10, 10, 40, 10, 10, 0]
    with pytest.raises(ValueError, match="needs a duration"):
        Shape("ramp", 10)


def test_scenarios_come_by_their_weights_and_are_numbered() -> None:
    items = list(itertools.islice(mixed({"short": 3, "long": 1}, seed=1), 4000))
    short = [number for name, number in items if name == "short"]
    assert short == list(range(len(short)))
    assert len(short) == pytest.approx(3000, rel=0.05)


def _configuration(**told: Any) -> Configuration:
    given: dict[str, Any] = {
        "host": "http://h",
        "scenarios": {"short": 1.0, "chat": 2.0},
        "seconds": 20.0,
    }
    return Configuration(**(given | told))


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_send_together_what_one_would(processes: int) -> None:
    one = list(planned(_configuration(rate=20)))
    several = _configuration(rate=20, processes=processes)
    parts = [list(planned(several, process)) for process in range(processes)]
    assert sorted(item for part in parts for item in part) == one
    assert len(one) > 300


def test_a_number_of_requests_is_exact() -> None:
    assert len(list(planned(_configuration(rate=20, requests=7)))) == 7
    several = _configuration(concurrency=4, requests=7, seconds=None, processes=2)
    assert [len(list(planned(several, process))) for process in (0, 1)] == [4, 3]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"rate": 1.0, "concurrency": 1},
        {"rate": 0.0},
        {"rate": 1.0, "seconds": None},
        {"rate": 1.0, "requests": 0},
        {"rate": 1.0, "scenarios": {}},
        {"rate": 1.0, "scenarios": {"short": 0.0}},
        {"concurrency": 1, "processes": 2},
        {"rate": 1.0, "most_in_flight": 0},
        {"rate": 1.0, "requests": 5, "seconds": None, "shape": "step"},
    ],
)
def test_what_cannot_be_run_is_said_at_once(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        _configuration(**told)


def test_scenarios_are_named_with_weights() -> None:
    assert scenarios_of("short, medium=2.5") == {"short": 1.0, "medium": 2.5}
    assert set(scenarios_of("all")) == set(SCENARIOS)
    with pytest.raises(ValueError, match="unknown scenario 'shrot'"):
        scenarios_of("shrot")
