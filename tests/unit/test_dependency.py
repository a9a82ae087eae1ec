"""When a backing service is left alone, and when it is tried again."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from api_server.errors import DependencyDownError
from api_server.stores.dependency import (
    FAILURES,
    FIRST_PAUSE_SECONDS,
    FORGET_SECONDS,
    LONGEST_PAUSE_SECONDS,
    TRIAL_SECONDS,
    Dependency,
    State,
)

LONGEST_JITTER = 1.25


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Service:
    """Answers, fails or hangs as it is told; says what its `Dependency` told of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.guard = Dependency("redis", (ConnectionError,), clock=self.clock)
        self.told: list[State] = []
        self.guard.notice = self.told.append
        self.asked = 0

    async def answers(self) -> str:
        self.asked += 1
        return "well"

    async def fails(self) -> str:
        self.asked += 1
        raise ConnectionResetError

    async def hangs(self) -> str:
        self.asked += 1
        await asyncio.Event().wait()
        return "never"

    async def call(self, how: Callable[[], Awaitable[str]], budget_seconds: float = 0.02) -> str:
        return await self.guard.call(how, budget_seconds=budget_seconds)

    async def is_refused(
        self, how: Callable[[], Awaitable[str]], budget_seconds: float = 0.02
    ) -> DependencyDownError:
        with pytest.raises(DependencyDownError) as caught:
            await self.call(how, budget_seconds)
        return caught.value

    async def go_down(self) -> None:
        for _ in range(FAILURES):
            await self.is_refused(self.fails)
        assert not self.guard.is_up

    def wait(self, seconds: float = LONGEST_PAUSE_SECONDS * LONGEST_JITTER) -> None:
        self.clock.now += seconds


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_some_failures_and_nobody_asks_any_more(how: str) -> None:
    service = Service()
    for _ in range(FAILURES):
        assert service.guard.is_up
        await service.is_refused(getattr(service, how))
    assert (service.guard.is_up, service.told) == (False, ["down"])
    error = await service.is_refused(service.answers)
    assert service.asked == FAILURES
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds >= 1


async def test_other_errors_are_the_callers_own() -> None:
    service = Service()

    async def is_wrong() -> str:
        raise ValueError("your query")

    for _ in range(2 * FAILURES):
        with pytest.raises(ValueError, match="your query"):
            await service.call(is_wrong)
    assert service.guard.is_up


async def test_one_trial_after_a_pause_that_grows_up_to_a_bound() -> None:
    service = Service()
    await service.go_down()
    pause = FIRST_PAUSE_SECONDS
    for _ in range(8):
        service.wait(pause * 0.74)
        await service.is_refused(service.answers)
        service.wait(pause * (LONGEST_JITTER - 0.73))
        asked = service.asked
        await service.is_refused(service.fails)
        await service.is_refused(service.fails)
        assert service.asked == asked + 1, "one trial at a time"
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    service.wait()
    assert await service.call(service.answers) == "well"
    assert service.told == ["down", "up"]


async def test_while_one_is_on_trial_the_others_are_refused_at_once() -> None:
    service = Service()
    await service.go_down()
    service.wait()
    trial = asyncio.create_task(service.is_refused(service.hangs, 0.1))
    await asyncio.sleep(0.01)
    assert (service.guard.is_on_trial, service.guard.may_connect) == (True, True)
    await service.is_refused(service.answers)
    await trial
    assert (service.guard.is_on_trial, service.guard.may_connect) == (False, False)


async def test_a_trial_is_short_whatever_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_server.stores.dependency.TRIAL_SECONDS", TRIAL_SECONDS / 40)
    service = Service()
    await service.go_down()
    service.wait()
    began = time.monotonic()
    await service.is_refused(service.hangs, budget_seconds=30)
    assert time.monotonic() - began < 1


async def test_calls_under_way_end_when_the_others_have_found_it_away() -> None:
    service = Service()
    patient = [asyncio.create_task(service.is_refused(service.hangs, 30)) for _ in range(5)]
    await asyncio.sleep(0)
    began = time.monotonic()
    await service.go_down()
    await asyncio.gather(*patient)
    assert time.monotonic() - began < 1
    service.wait(FIRST_PAUSE_SECONDS * LONGEST_JITTER)
    assert await service.call(service.answers) == "well", "they did not make the pause longer"


async def test_a_failure_now_and_then_is_none() -> None:
    service = Service()
    for _ in range(20):
        await service.is_refused(service.fails)
        for _ in range(20):
            await service.call(service.answers)
    assert service.told == []


async def test_a_few_failures_long_ago_are_forgotten() -> None:
    service = Service()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            await service.is_refused(service.fails)
        service.wait(FORGET_SECONDS + 1)
        await service.call(service.answers)
    assert service.told == []


async def test_what_comes_and_goes_is_away_for_longer_and_longer() -> None:
    service = Service()
    await service.go_down()
    pause = FIRST_PAUSE_SECONDS
    for _ in range(4):
        service.wait(pause * LONGEST_JITTER)
        await service.call(service.answers)
        await service.is_refused(service.fails)
        assert not service.guard.is_up, "one failure is enough so soon"
        pause *= 2
        service.wait(pause * 0.74)
        await service.is_refused(service.answers)
    service.wait()
    await service.call(service.answers)
    service.wait(FORGET_SECONDS + 1)
    await service.call(service.answers)
    await service.is_refused(service.fails)
    assert service.guard.is_up, "well for so long, it is trusted as ever"


async def test_a_loop_that_stood_still_says_nothing_of_the_service() -> None:
    service = Service()
    service.guard = Dependency("redis", (ConnectionError,))

    async def answers_soon() -> str:
        await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "well"

    for _ in range(2 * FAILURES):
        asked = asyncio.create_task(service.call(answers_soon, 0.02))
        await asyncio.sleep(0)
        time.sleep(0.1)  # whatever else this process has to do
        assert await asked == "well"


async def test_whoever_leaves_takes_the_call_along_and_says_nothing_of_the_service() -> None:
    service = Service()
    call = asyncio.create_task(service.call(service.hangs, 60))
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait({call})
    await service.guard.aclose()
    assert service.guard.is_up
    assert service.told == []


async def test_a_trial_whose_client_leaves_makes_room_for_another() -> None:
    service = Service()
    await service.go_down()
    service.wait()
    trial = asyncio.create_task(service.call(service.hangs, 60))
    await asyncio.sleep(0.01)
    trial.cancel()
    await asyncio.wait({trial})
    assert await service.call(service.answers, 1) == "well"
    assert service.guard.is_up
