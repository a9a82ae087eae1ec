"""What both stores of limits do: the real Redis and its twin in memory."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from api_server.errors import DependencyDownError
from api_server.stores.limits import Ask, LimitStore, RedisLimits
from api_server.stores.limits_memory import MemoryLimits
from api_server.stores.redis import Redis

BUDGET = 1.0


def rate(limit: int, seconds: int = 60, **more: object) -> Ask:
    return Ask("limits:a:requests", limit, seconds, seconds / 100, **more)  # type: ignore[arg-type]


def places(limit: int, in_use: int = 0, extra: int = 0) -> Ask:
    return Ask("limits:a:concurrent", limit, 0, 0.0, in_use=in_use, extra=extra)


@pytest.fixture(params=["redis", "memory"])
async def store(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[LimitStore]:
    if request.param == "memory":
        yield MemoryLimits()
        return
    redis = Redis(redis_url)
    yield RedisLimits(redis)
    await redis.aclose()


async def beat(store: LimitStore, process: str, since: float = 0.0) -> None:
    await store.beat(process, since, budget_seconds=BUDGET)


async def test_no_more_is_granted_than_the_limit(store: LimitStore) -> None:
    await beat(store, "one")
    answer = await store.ask("one", [rate(3)], [[(0, 1)]] * 5)
    assert answer.refused_by == [None, None, None, 0, 0]
    (granted,) = answer.limits
    assert (granted.units, granted.counted) == (3, 3)
    ((seconds, units),) = granted.frees
    assert units == 3
    assert 60 < seconds <= 60.75
    answer = await store.ask("two", [rate(3)], [[(0, 1)]])
    assert answer.refused_by == [0]


async def test_a_request_gets_all_that_it_needs_or_nothing(store: LimitStore) -> None:
    await beat(store, "one")
    asks = [rate(5), places(1)]
    answer = await store.ask("one", asks, [[(0, 1), (1, 1)], [(0, 1), (1, 1)], [(0, 4)]])
    assert answer.refused_by == [None, 1, None]
    assert [each.units for each in answer.limits] == [5, 1]


async def test_a_heavy_request_does_not_stand_in_the_way_of_a_light_one(store: LimitStore) -> None:
    answer = await store.ask("one", [rate(10)], [[(0, 8)], [(0, 5)], [(0, 2)]])
    assert answer.refused_by == [None, 0, None]


async def test_what_is_returned_can_be_granted_again_but_only_once(store: LimitStore) -> None:
    (granted,) = (await store.ask("one", [rate(10)], [[(0, 10)]])).limits
    back = rate(10, returns=[(granted.bucket, 4), (granted.bucket - 1, 3)])
    answer = await store.ask("one", [back], [[(0, 5)], [(0, 4)]])
    assert answer.refused_by == [0, None]
    (looked,) = (await store.ask("one", [rate(10, returns=[(granted.bucket, 99)])], [])).limits
    assert looked.counted >= 0


async def test_use_without_a_grant_counts_from_when_it_was(store: LimitStore) -> None:
    used = rate(10, used=[(0.0, 2), (30.0, 5), (61.0, 1)], tells=True)
    (granted,) = (await store.ask("one", [used], [])).limits
    assert granted.counted == 7
    first, second = granted.frees
    assert first[1] == 5
    assert 30 < first[0] < 31
    assert second[1] == 2
    answer = await store.ask("one", [rate(10)], [[(0, 3)], [(0, 1)]])
    assert answer.refused_by == [None, 0]


async def test_units_come_free_when_their_time_is_over(store: LimitStore) -> None:
    await store.ask("one", [rate(2, 1)], [[(0, 2)]])
    answer = await store.ask("one", [rate(2, 1)], [[(0, 1)]])
    assert answer.refused_by == [0]
    await asyncio.sleep(answer.limits[0].frees[0][0] - 0.1)
    assert (await store.ask("one", [rate(2, 1)], [[(0, 1)]])).refused_by == [0]
    await asyncio.sleep(0.11)
    answer = await store.ask("one", [rate(2, 1)], [[(0, 2)]])
    assert answer.refused_by == [None]
    assert answer.limits[0].counted == 2


async def test_extras_leave_the_same_for_the_others(store: LimitStore) -> None:
    await beat(store, "one")
    await beat(store, "two")
    (granted,) = (await store.ask("one", [rate(101, extra=1000)], [[(0, 1)]])).limits
    assert granted.units == 1 + 100 // 4
    (granted,) = (await store.ask("one", [rate(101, extra=3)], [])).limits
    assert granted.units == 3


async def test_places_are_those_of_living_processes(store: LimitStore) -> None:
    for process in ("one", "two"):
        await beat(store, process)
    await store.ask("one", [places(3)], [[(0, 1)]] * 2)
    answer = await store.ask("two", [places(3)], [[(0, 1)]] * 2)
    assert answer.refused_by == [None, 0]
    await store.ask("one", [places(3, in_use=1)], [])
    assert (await store.ask("two", [places(3, in_use=1)], [[(0, 1)]])).refused_by == [None]
    await store.leave("one")
    answer = await store.ask("two", [places(3, in_use=2)], [[(0, 1)], [(0, 1)]])
    assert answer.refused_by == [None, 0]


async def test_processes_hear_of_each_other(store: LimitStore) -> None:
    one = await store.beat("one", 0.0, budget_seconds=BUDGET)
    assert (one.index, one.processes, one.was_known) == (0, 1, False)
    await asyncio.sleep(0.05)
    two = await store.beat("two", 0.02, budget_seconds=BUDGET)
    assert (two.index, two.processes, two.unheard) == (1, 2, 1)
    assert two.epoch == one.epoch
    asked = await store.beat("three", 1.0, joins=False, budget_seconds=BUDGET)
    assert (asked.processes, asked.unheard) == (2, 0)
    assert (await store.beat("one", 0.0, budget_seconds=BUDGET)).was_known


async def test_redis_that_forgets_has_another_epoch_and_its_keys_end(redis_url: str) -> None:
    redis = Redis(redis_url)
    store, after = RedisLimits(redis), RedisLimits(redis)
    before = (await store.beat("one", 0.0, budget_seconds=BUDGET)).epoch
    assert (await after.beat("one", 0.0, budget_seconds=BUDGET)).epoch == before
    await store.ask("one", [rate(5, 2), places(3)], [[(0, 1), (1, 1)]])
    for key in await redis.use(lambda client: client.keys("*")):
        assert await redis.use(lambda client, key=key: client.pttl(key)) > 0  # type: ignore[misc]
    await redis.use(lambda client: client.flushall())
    assert (await after.beat("one", 0.0, budget_seconds=BUDGET)).epoch != before
    await redis.aclose()


async def test_a_call_that_redis_reads_too_late_does_nothing(redis_url: str) -> None:
    redis = Redis(redis_url)
    store = RedisLimits(redis)
    await beat(store, "one")
    store._ahead_us -= 10_000_000
    with pytest.raises(DependencyDownError):
        await store.ask("one", [rate(5)], [[(0, 5)]])
    answer = await store.ask("one", [rate(5)], [[(0, 5)]])
    assert answer.refused_by == [None]
    await beat(store, "one")
    # Until it is heard of again, others leave it its share.
    await beat(store, "two")
    other = Ask("limits:b:requests", 10, 60, 0.6)
    answer = await store.ask("two", [other], [[(0, 5)], [(0, 1)]])
    assert answer.refused_by == [None, None]
    store._ahead_us -= 10_000_000
    with pytest.raises(DependencyDownError):
        await store.ask("one", [rate(5)], [])
    answer = await store.ask("two", [Ask("limits:c:requests", 10, 60, 0.6)], [[(0, 5)], [(0, 1)]])
    assert answer.refused_by == [None, 0]
    await redis.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_both_stores_agree(redis_url: str, seed: int) -> None:
    """The same calls, the same answers: what is granted does not depend on the time here."""
    chance = random.Random(seed)
    redis = Redis(redis_url)
    stores: list[LimitStore] = [RedisLimits(redis), MemoryLimits()]
    processes = ["one", "two", "three"]
    for store in stores:
        for process in processes:
            await beat(store, process)
    for _ in range(300):
        asks = [
            rate(chance.choice([20, 500]), 3600, extra=chance.choice([0, 7])),
            places(9, in_use=chance.randint(0, 3), extra=chance.choice([0, 2])),
            Ask("limits:a:tokens", 1000, 3600, 2.0, used=[(chance.random(), 1)]),
        ]
        requests = [
            [(0, 1), (1, 1), (2, chance.randint(1, 300))][: chance.randint(1, 3)]
            for _ in range(chance.randint(0, 4))
        ]
        process = chance.choice(processes)
        ours, theirs = [await store.ask(process, asks, requests) for store in stores]
        assert ours.refused_by == theirs.refused_by
        assert [(g.units, g.counted) for g in ours.limits] == [
            (g.units, g.counted) for g in theirs.limits
        ]
    await redis.aclose()
