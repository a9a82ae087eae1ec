"""The limits of apps over a store in memory, with a clock that the test turns."""

import asyncio
import bisect
import random
from collections.abc import Sequence

import pytest

from api_server.errors import DependencyDownError, InvalidRequestError, RateLimitedError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import ANYONE, App, Caller, Limits, Policy, RateLimit
from api_server.services.quotas.leases import Lease, Peers
from api_server.services.quotas.quotas import Quotas
from api_server.services.quotas.reservation import NOTHING, Reservation
from api_server.services.quotas.rules import Rule, make_rules
from api_server.stores.limits import (
    LIVES_SECONDS,
    SILENT_SECONDS,
    Answer,
    Ask,
    Beat,
    Granted,
    LimitStore,
)
from api_server.stores.limits_memory import MemoryLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class MayBeAway(MemoryLimits):
    """A store that can be taken away from some of its users."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.is_away = False
        self.calls = 0

    def fail_if_away(self, process: str) -> None:
        """As Redis does with a call that it reads too late: the process is on its own now."""
        if self.is_away:
            if process in self._living:
                self._living[process] = self._clock() + LIVES_SECONDS - SILENT_SECONDS - 0.001
            raise DependencyDownError("redis")

    async def ask(
        self,
        process: str,
        limits: Sequence[Ask],
        requests: Sequence[Sequence[tuple[int, int]]],
        *,
        budget_seconds: float = 0.05,
    ) -> Answer:
        self.calls += 1
        self.fail_if_away(process)
        return await super().ask(process, limits, requests, budget_seconds=budget_seconds)

    async def beat(
        self, process: str, since_seconds: float, *, joins: bool = True, budget_seconds: float
    ) -> Beat:
        self.fail_if_away(process)
        return await super().beat(
            process, since_seconds, joins=joins, budget_seconds=budget_seconds
        )


def app_with(**policy: object) -> Caller:
    return Caller(App("app_1", "a", Policy.model_validate(policy)))


def quotas_over(store: LimitStore | None, clock: Clock, **options: object) -> Quotas:
    return Quotas(store, Metrics([], Numbers()), clock=clock, **options)  # type: ignore[arg-type]


async def joined(store: LimitStore, clock: Clock, **options: object) -> Quotas:
    """As `start`, but the test beats."""
    quotas = quotas_over(store, clock, **options)
    await quotas._beat()
    return quotas


async def admitted(quotas: Quotas, caller: Caller, tokens: int = 1, model: str = "m") -> bool:
    try:
        await quotas.reserve(caller, model, tokens)
    except RateLimitedError:
        return False
    return True


async def refused(quotas: Quotas, caller: Caller, tokens: int = 1) -> RateLimitedError:
    with pytest.raises(RateLimitedError) as caught:
        await quotas.reserve(caller, "m", tokens)
    return caught.value


async def looked(quotas: Quotas) -> None:
    """Let the desks bring what there is to the store, and be done."""
    for desk in quotas._desks.values():
        desk._look()
        desk._look()
        if desk._task is not None:
            await desk._task


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MayBeAway:
    return MayBeAway(clock)


async def test_an_app_without_limits_gets_the_shared_reservation_of_nothing(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    reservation = await quotas.reserve(ANYONE, "m", 100)
    assert reservation is NOTHING
    assert reservation.headers() == ()
    reservation.settle(3)
    reservation.cancel()
    reservation.release()
    assert not store.calls


@pytest.mark.parametrize("with_store", [True, False])
async def test_ten_a_minute_is_ten_and_retry_after_is_true(
    clock: Clock, store: MayBeAway, with_store: bool
) -> None:
    quotas = await joined(store, clock) if with_store else quotas_over(None, clock)
    caller = app_with(rate_limits=["10/minute"])
    for _ in range(10):
        assert await admitted(quotas, caller)
        clock.now += 1
    for number in range(5):
        error = await refused(quotas, caller)
        assert "10 requests in 60 s" in error.message
        told = error.retry_after_seconds or 0.0
        assert (told > 49) == (number == 0)
        clock.now += told
        assert await admitted(quotas, caller), "told the truth"
    told = (await refused(quotas, caller)).retry_after_seconds or 0.0
    clock.now += told - 0.3
    assert not await admitted(quotas, caller), "and no more than that"


async def test_many_who_are_refused_are_told_different_times(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    caller = app_with(rate_limits=["5/minute"])
    for _ in range(5):
        assert await admitted(quotas, caller)
        clock.now += 5
    told = [(await refused(quotas, caller)).retry_after_seconds or 0.0 for _ in range(5)]
    assert told == sorted(told)
    assert told[4] > told[0] + 15
    for seconds, before in zip(told, [0.0, *told], strict=False):
        clock.now += seconds - before
        assert await admitted(quotas, caller)


async def test_a_refusal_by_one_limit_takes_nothing_from_the_others(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    limits = Limits(rate_limits=["1/hour"])
    caller = app_with(rate_limits=["3/minute"], limits_by_model={"m": limits})
    assert await admitted(quotas, caller)
    for _ in range(20):
        assert not await admitted(quotas, caller)
        clock.now += 0.01
    assert await admitted(quotas, caller, model="other")
    assert await admitted(quotas, caller, model="other")
    assert not await admitted(quotas, caller, model="other")


@pytest.mark.parametrize("with_store", [True, False])
async def test_tokens_are_reserved_and_settled(
    clock: Clock, store: MayBeAway, with_store: bool
) -> None:
    quotas = await joined(store, clock) if with_store else quotas_over(None, clock)
    caller = app_with(tokens_per_minute=1000)
    one = await quotas.reserve(caller, "m", 900)
    await refused(quotas, caller, 200)
    clock.now += 5
    one.settle(100)
    one.settle(None)  # the first call counts
    one.release()
    await looked(quotas)
    clock.now += 1
    two = await quotas.reserve(caller, "m", 900)
    two.settle(950)
    two.release()
    await looked(quotas)
    clock.now += 1
    error = await refused(quotas, caller, 51)
    assert error.headers["x-ratelimit-limit-tokens"] == "1000"
    assert error.headers["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(InvalidRequestError, match=r"1001 tokens.*1000 tokens in 60 s"):
        await quotas.reserve(caller, "m", 1001)


@pytest.mark.parametrize("with_store", [True, False])
async def test_what_is_cancelled_was_never_there(
    clock: Clock, store: MayBeAway, with_store: bool
) -> None:
    quotas = await joined(store, clock) if with_store else quotas_over(None, clock)
    caller = app_with(rate_limits=["2/hour"], tokens_per_minute=10, concurrent_requests=1)
    for _ in range(5):
        reservation = await quotas.reserve(caller, "m", 10)
        clock.now += 1
        reservation.cancel()
        reservation.release()
        reservation.cancel()
        await looked(quotas)
        clock.now += 1
    assert await admitted(quotas, caller, 10)


@pytest.mark.parametrize("with_store", [True, False])
async def test_places_come_back_once(clock: Clock, store: MayBeAway, with_store: bool) -> None:
    quotas = await joined(store, clock) if with_store else quotas_over(None, clock)
    caller = app_with(concurrent_requests=2)
    one, _ = await quotas.reserve(caller, "m", 1), await quotas.reserve(caller, "m", 1)
    error = await refused(quotas, caller)
    assert 0.5 <= (error.retry_after_seconds or 0) <= 60
    one.release()
    one.release()
    clock.now += 0.1
    assert await admitted(quotas, caller)
    assert not await admitted(quotas, caller)


async def test_headers_tell_of_the_limit_that_is_nearest_to_its_end(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    caller = app_with(rate_limits=["10/minute", "1000/hour"], tokens_per_minute=500)
    headers = dict((await quotas.reserve(caller, "m", 100)).headers())
    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-reset-requests"] == b"1m0.75s"
    assert headers[b"x-ratelimit-limit-tokens"] == b"500"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"400"


async def test_a_limit_that_is_changed_goes_on_with_what_was_used(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    for _ in range(3):
        assert await admitted(quotas, app_with(rate_limits=["3/minute"]))
    clock.now += 1
    assert not await admitted(quotas, app_with(rate_limits=["3/minute"]))
    clock.now += 1
    higher = app_with(rate_limits=["5/minute"])
    assert [await admitted(quotas, higher) for _ in range(3)] == [True, True, False]


async def race(seed: int, *, outages: float, cancelled: float) -> tuple[int, int, list[float]]:
    """Four processes, bursts and pauses; the limit, its period, the times of all admissions."""
    chance = random.Random(seed)
    clock = Clock()
    store = MayBeAway(clock)
    limit, seconds = chance.choice([(3, 1), (10, 6), (50, 3), (400, 10)])

    def rules(app: App, model: str | None) -> list[Rule]:
        return [] if model else make_rules(app.id, None, [RateLimit(limit, seconds)])

    fleet = [await joined(store, clock, rules_of=rules) for _ in range(4)]
    caller = app_with()
    for quotas in fleet:  # what a process has never heard of it cannot know in an outage
        await quotas._beat()
        await admitted(quotas, caller)
    clock.now += 2 * seconds
    times: list[float] = []
    next_beat = 0.0
    for _ in range(3000):
        clock.now += chance.choice([0.0, 0.0, 0.0005, 0.01, seconds / limit, seconds / 7])
        if clock.now >= next_beat:
            next_beat = clock.now + 1
            for quotas in fleet * 2:
                await quotas._beat()
                clock.now += 0.05
            store.is_away = chance.random() < outages
        quotas = chance.choice(fleet)
        asked = [quotas.reserve(caller, "m", 1) for _ in range(chance.choice([1, 1, 3, 12]))]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if not isinstance(result, Reservation):
                assert isinstance(result, RateLimitedError)
            elif chance.random() < cancelled:
                result.cancel()
            else:
                times.append(clock.now)
                result.release()
    assert len(times) > 500
    return limit, seconds, times


def any_window(times: list[float], seconds: float) -> int:
    return max(bisect.bisect_left(times, at + seconds) - first for first, at in enumerate(times))


@pytest.mark.parametrize("seed", range(10))
async def test_no_window_is_over_the_limit(seed: int) -> None:
    limit, seconds, times = await race(seed, outages=0.0, cancelled=0.0)
    assert any_window(times, seconds) <= limit


@pytest.mark.parametrize("seed", range(10))
async def test_no_window_is_over_the_limit_whoever_cancels(seed: int) -> None:
    limit, seconds, times = await race(seed, outages=0.0, cancelled=0.2)
    assert any_window(times, seconds) <= limit


@pytest.mark.parametrize("seed", range(10))
async def test_no_window_is_over_the_limit_in_outages_that_follow_a_beat(seed: int) -> None:
    """What others do between the two a process cannot know."""
    limit, seconds, times = await race(seed, outages=0.3, cancelled=0.1)
    assert any_window(times, seconds) <= limit


async def test_when_the_store_goes_away_nobody_gets_a_second_helping(
    clock: Clock, store: MayBeAway
) -> None:
    caller = app_with(rate_limits=["100/minute"])
    fleet = [await joined(store, clock) for _ in range(4)]
    for quotas in fleet:
        await quotas._beat()
    used = 0
    for _ in range(80):
        used += await admitted(fleet[0], caller)
        clock.now += 0.001
    for quotas in fleet[1:]:
        used += await admitted(quotas, caller)
    clock.now += 1
    for quotas in fleet:
        await quotas._beat()
    store.is_away = True
    clock.now += 1
    for quotas in fleet:
        for _ in range(100):
            used += await admitted(quotas, caller)
        assert quotas.is_degraded
    assert 95 <= used <= 100
    clock.now += 62
    later = [sum([await admitted(quotas, caller) for _ in range(100)]) for quotas in fleet]
    assert later == [25, 25, 25, 25]
    # Back: all have told what they used before anybody gets more.
    store.is_away = False
    clock.now += 1
    for quotas in fleet:
        await quotas._beat()
        assert not await admitted(quotas, caller)
    for quotas in fleet:
        clock.now += 0.3
        await quotas._beat()
        assert not await admitted(quotas, caller)
    assert not any(quotas.is_degraded for quotas in fleet)


async def test_without_a_store_processes_share_evenly(clock: Clock) -> None:
    caller = app_with(rate_limits=["10/hour"])
    counts = []
    for index in range(4):
        quotas = quotas_over(None, clock, processes=4, index=index)
        counts.append(sum([await admitted(quotas, caller) for _ in range(20)]))
        assert not quotas.is_degraded
    assert counts == [3, 3, 2, 2]


async def test_a_client_that_leaves_while_it_waits_keeps_nothing(
    clock: Clock, store: MayBeAway
) -> None:
    quotas = await joined(store, clock)
    caller = app_with(concurrent_requests=1)
    for steps in range(6):
        task = asyncio.ensure_future(quotas.reserve(caller, "m", 1))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result().release()
        await asyncio.sleep(0)
        await looked(quotas)
        clock.now += 1
    assert await admitted(quotas, caller)


async def test_a_grant_saves_round_trips(clock: Clock, store: MayBeAway) -> None:
    quotas = await joined(store, clock)
    caller = app_with(rate_limits=["1000000/hour"])
    for _ in range(5000):
        (await quotas.reserve(caller, "m", 1)).release()
        clock.now += 0.0002
    assert store.calls < 50


async def test_what_is_idle_is_forgotten_and_nothing_else(clock: Clock, store: MayBeAway) -> None:
    quotas = await joined(store, clock)
    assert await admitted(quotas, app_with(rate_limits=["10/second"]))
    await quotas._beat()
    assert quotas._desks
    for _ in range(3):
        clock.now += 300
        await looked(quotas)
        await quotas._beat()
    assert not quotas._desks


def test_what_an_older_grant_gave_is_not_used_under_a_newer_one() -> None:
    """It would count until the older one's end, and be used after that."""
    (rule,) = make_rules("app_1", None, [RateLimit(1000, 60)])
    lease = Lease(rule)
    lease.answered(Granted(bucket=7, units=100, counted=100), sent=0.0, now=0.0)
    old = lease.take(50)
    lease.answered(Granted(bucket=8, units=20, counted=120), sent=30.0, now=30.0)
    lease.give_back(old, 30, 30.1)
    assert lease.left == 20
    assert (7, 30) in lease.ask(30.2).returns


def test_what_the_store_may_not_have_heard_is_told_again_until_it_answers() -> None:
    (rule,) = make_rules("app_1", None, [RateLimit(1000, 60)])
    lease = Lease(rule)
    lease.go_alone(0.0, Peers())
    lease.take_alone(3, 1.0)
    for now in (2.0, 3.0):
        assert sum(units for _, units in lease.ask(now).used) == 3
        lease.failed()
    assert sum(units for _, units in lease.ask(4.0).used) == 3
    lease.answered(Granted(bucket=1, units=0, counted=3), sent=4.0, now=4.0)
    assert not lease.ask(5.0).used


async def test_who_finds_the_store_again_first_waits_for_the_others(
    clock: Clock, store: MayBeAway
) -> None:
    caller = app_with(rate_limits=["10/hour"])
    first = await joined(store, clock, processes=2, index=0)
    second = await joined(store, clock, processes=2, index=1)
    both = (first, second)
    for quotas in (*both, *both):
        await quotas._beat()
    assert not any(quotas.is_degraded for quotas in both)
    store.is_away = True
    for quotas in both:
        await quotas._beat()
        assert await admitted(quotas, caller)
    clock.now += 1.0
    store.is_away = False
    await first._beat()
    assert first.is_degraded, "the second one has not told what it used"
    clock.now += 0.1
    await second._beat()
    clock.now += 0.1
    for quotas in both:
        await quotas._beat()
    assert not any(quotas.is_degraded for quotas in both)
    assert sum([await admitted(first, caller) for _ in range(20)]) == 8
