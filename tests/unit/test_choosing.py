"""Which replica gets a request."""

import random
from collections import Counter

import pytest

from api_server.inference.replicas.choosing import Standing, choose, hash_of

SEEDS = [hash_of(f"http://10.0.0.{n}:8080".encode()) for n in range(8)]


def idle(count: int, room: float = 4.0) -> list[Standing]:
    return [Standing(seed, 0, room) for seed in SEEDS[:count]]


def key(name: object) -> int:
    return hash_of(str(name).encode())


def test_without_a_key_the_least_busy_for_its_room_is_taken() -> None:
    standings = [Standing(SEEDS[0], 3, 4), Standing(SEEDS[1], 2, 4), Standing(SEEDS[2], 1, 1)]
    assert choose(standings, None, 1, 1.5, 0.0) == 1, "2 of 4 before 1 of 1"
    standings[1] = Standing(SEEDS[1], 2, 2)
    assert choose(standings, None, 1, 1.5, 0.99) == 0


def test_one_without_room_is_never_taken() -> None:
    standings = [Standing(SEEDS[0], 0, 0), Standing(SEEDS[1], 9, 1)]
    for name in range(50):
        assert choose(standings, key(name), 1, 1.5, 0.0) == 1
    assert choose([Standing(SEEDS[0], 0, 0)], None, 1, 1.5, 0.5) is None
    assert choose([], None, 1, 1.5, 0.5) is None


def test_equals_are_taken_by_chance() -> None:
    chances = random.Random(1)
    taken = Counter(choose(idle(4), None, 1, 1.5, chances.random()) for _ in range(4000))
    assert len(taken) == 4
    assert max(taken.values()) < 1200


def test_a_key_keeps_its_replica_and_keys_spread_evenly() -> None:
    taken = Counter(choose(idle(8), key(n), 1, 1.5, 0.0) for n in range(8000))
    assert set(taken) == set(range(8))
    assert max(taken.values()) < 1150
    assert min(taken.values()) > 850
    for name in range(20):
        choices = {choose(idle(8), key(name), 1, 1.5, chance / 10) for chance in range(10)}
        assert len(choices) == 1


@pytest.mark.parametrize("gone", range(8))
def test_when_a_replica_goes_only_its_own_keys_move(gone: int) -> None:
    left = [
        standing._replace(room=0) if place == gone else standing
        for place, standing in enumerate(idle(8))
    ]
    for name in range(500):
        before = choose(idle(8), key(name), 1, 1.5, 0.0)
        after = choose(left, key(name), 1, 1.5, 0.0)
        assert before in (after, gone)


def test_the_order_of_the_replicas_says_nothing() -> None:
    turned = list(reversed(idle(8)))
    for name in range(200):
        place = choose(idle(8), key(name), 1, 1.5, 0.0)
        mirrored = choose(turned, key(name), 1, 1.5, 0.0)
        assert place is not None
        assert mirrored == 7 - place


def favourite(count: int, name: object) -> int:
    place = choose(idle(count), key(name), 1, 1.5, 0.0)
    assert place is not None
    return place


def test_a_full_replica_gives_a_key_to_its_second_choice_always_the_same() -> None:
    first = favourite(4, "a")
    standings = idle(4)
    standings[first] = Standing(SEEDS[first], 4, 4)
    second = {choose(standings, key("a"), 1, 100, chance / 10) for chance in range(10)}
    assert len(second) == 1
    assert first not in second


def test_no_replica_gets_far_more_than_the_mean_by_its_keys() -> None:
    """All requests of one key: the load stays within the bound, however much room there is."""
    in_flight = [0, 0, 0, 0]
    for _ in range(100):
        standings = [Standing(SEEDS[n], in_flight[n], 1000) for n in range(4)]
        place = choose(standings, key("hot"), 1, 1.5, 0.5)
        assert place is not None
        in_flight[place] += 1
        mean = sum(in_flight) / 4
        assert max(in_flight) <= max(1, -(-1.5 * mean // 1))


def test_when_all_are_full_the_least_busy_is_taken_whatever_the_key() -> None:
    standings = [Standing(SEEDS[0], 9, 4), Standing(SEEDS[1], 5, 4), Standing(SEEDS[2], 7, 4)]
    for name in range(20):
        assert choose(standings, key(name), 1, 1.5, 0.3) == 1


def test_a_heavy_request_needs_as_much_room() -> None:
    first = favourite(2, "a")
    standings = [Standing(SEEDS[n], 2 if n == first else 0, 4) for n in range(2)]
    assert choose(standings, key("a"), 2, 2.0, 0.0) == first
    assert choose(standings, key("a"), 3, 2.0, 0.0) == 1 - first


def test_the_hash_is_the_same_in_every_process() -> None:
    assert hash_of(b"conversation") == 0x5299C67A4629BC40
