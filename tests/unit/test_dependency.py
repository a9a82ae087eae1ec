"""What guards the calls to PostgreSQL and Redis: budgets, and a breaker that counts time-outs."""

import asyncio

import pytest

from api_server.errors import DependencyDownError
from api_server.stores.dependency import (
    FAILURES,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Dependency,
    State,
)

JITTER = 1.25


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Service:
    """What is behind it: answers, fails or hangs, and counts who asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.hangs = False
        self.cancelled = 0

    async def ask(self) -> str:
        self.asked += 1
        if self.hangs:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def dependency(clock: Clock) -> Dependency:
    return Dependency("redis", (ConnectionError,), clock=clock)


async def fails(dependency: Dependency, service: Service, budget_seconds: float = 0.01) -> None:
    with pytest.raises(DependencyDownError):
        await dependency.call(service.ask, budget_seconds=budget_seconds)


async def open_breaker(dependency: Dependency, service: Service) -> None:
    service.error = ConnectionError()
    for _ in range(FAILURES):
        await fails(dependency, service)
    assert not dependency.is_up


async def test_what_takes_too_long_is_cancelled(dependency: Dependency, service: Service) -> None:
    service.hangs = True
    await fails(dependency, service)
    await dependency.aclose()
    assert service.cancelled == 1


async def test_whoever_leaves_takes_the_call_along(
    dependency: Dependency, service: Service
) -> None:
    service.hangs = True
    call = asyncio.create_task(dependency.call(service.ask, budget_seconds=60))
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait({call})
    await dependency.aclose()
    assert service.cancelled == 1
    assert dependency.is_up


async def test_failures_in_a_row_open_it_and_nobody_is_asked_meanwhile(
    dependency: Dependency, service: Service
) -> None:
    await open_breaker(dependency, service)
    await fails(dependency, service)
    assert service.asked == FAILURES


async def test_an_answer_in_between_makes_it_count_anew(
    dependency: Dependency, service: Service
) -> None:
    for _ in range(3):
        service.error = ConnectionError()
        for _ in range(FAILURES - 1):
            await fails(dependency, service)
        service.error = None
        assert await dependency.call(service.ask, budget_seconds=1) == "answer"
    assert dependency.is_up


async def test_one_call_is_the_trial_and_all_others_fail_at_once(
    dependency: Dependency, service: Service, clock: Clock
) -> None:
    await open_breaker(dependency, service)
    clock.now += FIRST_PAUSE_SECONDS * JITTER
    service.error, service.hangs = None, True
    trial = asyncio.create_task(fails(dependency, service, budget_seconds=0.05))
    await asyncio.sleep(0.01)
    await fails(dependency, service)
    await trial
    assert service.asked == FAILURES + 1


async def test_a_trial_whose_client_leaves_makes_room_for_another(
    dependency: Dependency, service: Service, clock: Clock
) -> None:
    await open_breaker(dependency, service)
    clock.now += FIRST_PAUSE_SECONDS * JITTER
    service.error, service.hangs = None, True
    trial = asyncio.create_task(dependency.call(service.ask, budget_seconds=60))
    await asyncio.sleep(0.01)
    trial.cancel()
    await asyncio.wait({trial})
    service.hangs = False
    assert await dependency.call(service.ask, budget_seconds=1) == "answer"
    assert dependency.is_up


async def test_pauses_double_with_each_trial_that_fails_up_to_a_bound(
    dependency: Dependency, service: Service, clock: Clock
) -> None:
    await open_breaker(dependency, service)
    pause_seconds = FIRST_PAUSE_SECONDS
    for _ in range(8):
        asked = service.asked
        clock.now += pause_seconds * 0.74
        await fails(dependency, service)
        assert service.asked == asked, "earlier than the pause"
        clock.now += pause_seconds * (JITTER - 0.73)
        await fails(dependency, service)
        assert service.asked == asked + 1
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
    assert pause_seconds == LONGEST_PAUSE_SECONDS


async def test_many_calls_that_fail_together_make_the_first_pause_no_longer(
    dependency: Dependency, service: Service, clock: Clock
) -> None:
    service.hangs = True
    await asyncio.gather(*(fails(dependency, service) for _ in range(50)))
    assert not dependency.is_up
    service.hangs = False
    clock.now += FIRST_PAUSE_SECONDS * JITTER
    assert await dependency.call(service.ask, budget_seconds=1) == "answer"


async def test_an_error_of_the_call_says_nothing_of_the_service(
    dependency: Dependency, service: Service
) -> None:
    service.error = ValueError("this call")
    for _ in range(2 * FAILURES):
        with pytest.raises(ValueError, match="this call"):
            await dependency.call(service.ask, budget_seconds=1)
    assert dependency.is_up


async def test_it_tells_of_each_change_once(
    dependency: Dependency, service: Service, clock: Clock
) -> None:
    told: list[State] = []
    dependency.notice = told.append
    await open_breaker(dependency, service)
    clock.now += LONGEST_PAUSE_SECONDS
    await fails(dependency, service)
    clock.now += LONGEST_PAUSE_SECONDS
    service.error = None
    for _ in range(3):
        await dependency.call(service.ask, budget_seconds=1)
    assert told == ["down", "up"]
