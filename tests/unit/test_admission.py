"""Who may enter, who waits, who is sent away, and whether what they are told is true."""

import asyncio
from collections.abc import Callable

import pytest

from api_server.errors import OverloadedError, QueueTimeoutError
from api_server.services.admission import SLACK, Gate
from api_server.services.bookings import (
    LONGEST_RETRY_SECONDS,
    SHORTEST_RETRY_SECONDS,
    Bookings,
)
from api_server.services.fairness import NOBODY


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def enter(
    gate: Gate, weight: int = 1, seconds: float = 5, *, is_retry: bool | None = False
) -> float:
    return await gate.enter(weight, deadline_seconds=seconds, is_retry=is_retry)


def leave(gate: Gate, weight: int = 1, *, has_answered: bool = False) -> None:
    """One of those that run leaves; they have entered together."""
    entered_sum = gate._queue.account(NOBODY).entered_sum
    gate.leave(weight, entered_sum / gate.running, has_answered=has_answered)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(1):
        while not condition():
            await asyncio.sleep(0)


async def queued(gate: Gate, weight: int = 1, seconds: float = 5) -> "asyncio.Task[float]":
    waiting = gate.waiting
    task = asyncio.create_task(enter(gate, weight, seconds))
    await until(lambda: gate.waiting > waiting)
    return task


async def test_no_more_enter_than_there_is_room() -> None:
    gate = Gate(2, 10)
    await enter(gate)
    await enter(gate)
    third = await queued(gate)
    assert (gate.running, gate.waiting) == (2, 1)
    leave(gate)
    await third
    assert (gate.running, gate.waiting) == (2, 0)


async def test_first_come_first_served() -> None:
    gate = Gate(1, 10)
    await enter(gate)
    order: list[int] = []

    async def come(number: int) -> None:
        await enter(gate)
        order.append(number)
        leave(gate)

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(come(number)))
        await until(lambda wanted=number + 1: gate.waiting == wanted)  # type: ignore[misc]
    leave(gate)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_heavy_request_is_not_overtaken_for_ever() -> None:
    gate = Gate(4, 10)
    await enter(gate, 3)
    heavy = await queued(gate, 2)
    light = await queued(gate, 1)
    await asyncio.sleep(0)
    assert not light.done(), "there is room for it, but it came later"
    leave(gate, 3)
    await asyncio.gather(heavy, light)
    assert gate.running == 3


async def test_weight_never_exceeds_what_there_is() -> None:
    assert Gate(3, 1).weight_of(128) == 3


async def test_cancelled_in_the_queue_leaves_no_trace_and_frees_those_behind() -> None:
    gate = Gate(2, 10)
    await enter(gate, 1)
    heavy = await queued(gate, 2)
    light = await queued(gate, 1)
    heavy.cancel()
    await asyncio.gather(heavy, return_exceptions=True)
    await light
    assert (gate.running, gate.waiting) == (2, 0)


async def test_cancelled_in_the_moment_of_admission_gives_the_place_back() -> None:
    gate = Gate(1, 10)
    await enter(gate)
    waiting = await queued(gate)
    leave(gate)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.running, gate.waiting) == (0, 0)
    await enter(gate)


async def test_many_that_are_cancelled_at_once_leave_no_trace() -> None:
    """As when the server goes down: places come free while those who wait are being cancelled."""
    gate = Gate(1, 10)
    await enter(gate)
    waiting = [await queued(gate) for _ in range(4)]
    for task in waiting:
        task.cancel()
    leave(gate)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert (gate.running, gate.waiting) == (0, 0)


async def test_nobody_waits_longer_than_the_deadline() -> None:
    gate = Gate(1, 10)
    await enter(gate)
    with pytest.raises(QueueTimeoutError) as caught:
        await enter(gate, seconds=0.02)
    assert caught.value.retry_after_seconds is not None
    assert caught.value.status == 503
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_full_queue_sends_away_at_once() -> None:
    gate = Gate(1, 1)
    await enter(gate)
    waiting = await queued(gate)
    with pytest.raises(OverloadedError) as caught:
        await enter(gate)
    assert caught.value.status == 429
    assert int(caught.value.headers["retry-after"]) >= 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_queue_that_is_too_slow_for_the_deadline_sends_away_at_once() -> None:
    clock = Clock()
    gate = Gate(1, 100, clock=clock)
    await enter(gate)
    clock.now += 20
    leave(gate, has_answered=True)  # one such answer, and the mean is about 5 s
    await enter(gate)
    waiting = await queued(gate)
    with pytest.raises(OverloadedError):
        await enter(gate, seconds=5)
    patient = await queued(gate, seconds=60)
    for task in (waiting, patient):
        task.cancel()
    await asyncio.gather(waiting, patient, return_exceptions=True)


async def test_those_sent_away_are_told_different_times_at_the_pace_of_the_engine() -> None:
    clock = Clock()
    gate = Gate(2, 0, clock=clock)
    await enter(gate)
    clock.now += 1
    leave(gate, has_answered=True)
    await enter(gate, 2)
    times = [await told(gate) for _ in range(4)]
    assert times == pytest.approx([SLACK * 0.5 * k for k in (1, 2, 3, 4)]), (
        "two slots, a second each"
    )


@pytest.mark.parametrize("says", [True, None])
async def test_a_place_is_kept_for_one_who_comes_back_as_told(says: bool | None) -> None:
    clock = Clock()
    gate = Gate(1, 2, clock=clock)
    await enter(gate)
    first, second = await queued(gate), await queued(gate)
    with pytest.raises(OverloadedError) as caught:
        await enter(gate)
    leave(gate)
    await first
    with pytest.raises(OverloadedError):
        await enter(gate)  # a place is free, and booked
    with pytest.raises(OverloadedError):
        await enter(gate, is_retry=True)  # nobody is expected yet, whatever it says
    clock.now += caught.value.retry_after_seconds or 0
    came_back = asyncio.create_task(enter(gate, is_retry=says))
    await until(lambda: gate.waiting == 2)
    for task in (second, came_back):
        task.cancel()
    await asyncio.gather(second, came_back, return_exceptions=True)


async def test_a_place_is_kept_where_the_deadline_bounds_the_queue() -> None:
    clock = Clock()
    gate = Gate(1, 100, clock=clock)
    await enter(gate)
    clock.now += 1
    leave(gate, has_answered=True)
    await enter(gate)
    deadline = 4 * gate.expected_wait_seconds()
    waiting = [await queued(gate, seconds=60) for _ in range(4)]
    with pytest.raises(OverloadedError) as caught:
        await enter(gate, seconds=deadline)
    assert caught.value.retry_after_seconds is not None
    leave(gate)  # there is room for one more within the deadline, and one is promised it
    await waiting.pop(0)
    with pytest.raises(OverloadedError):
        await enter(gate, seconds=deadline)
    clock.now += caught.value.retry_after_seconds
    leave(gate, has_answered=True)
    await waiting.pop(0)
    back = asyncio.create_task(enter(gate, seconds=deadline, is_retry=True))
    await until(lambda: gate.waiting == 3)
    for task in (*waiting, back):
        task.cancel()
    await asyncio.gather(*waiting, back, return_exceptions=True)


async def test_a_free_slot_is_never_kept_for_anybody() -> None:
    clock = Clock()
    gate = Gate(1, 0, clock=clock)
    await enter(gate)
    for _ in range(5):
        with pytest.raises(OverloadedError):
            await enter(gate)
    leave(gate)
    await enter(gate)
    assert gate.running == 1


async def test_places_of_those_who_never_come_back_are_given_to_others() -> None:
    clock = Clock()
    gate = Gate(1, 1, clock=clock)
    await enter(gate)
    first = await queued(gate)
    with pytest.raises(OverloadedError):
        await enter(gate)
    leave(gate)
    await first
    with pytest.raises(OverloadedError):
        await enter(gate)
    clock.now += 10
    newcomer = await queued(gate)
    newcomer.cancel()
    await asyncio.gather(newcomer, return_exceptions=True)


def test_promises_run_out_and_do_not_pile_up() -> None:
    bookings = Bookings()
    assert bookings.book(0.0, 1.0) == 1.0
    assert bookings.due(0.5) == 0
    assert bookings.due(1.0) == 1
    assert bookings.due(3.5) == 0, "nobody came"
    told = [bookings.book(10.0, 1.0) for _ in range(1000)]
    assert max(told) == LONGEST_RETRY_SECONDS
    assert bookings.due(10.0 + LONGEST_RETRY_SECONDS) <= 60


async def test_answers_that_take_longer_than_any_before_are_seen_before_they_end() -> None:
    """Or the Retry-After would speak of the quick ones that came before."""
    clock = Clock()
    gate = Gate(2, 0, clock=clock)
    for _ in range(50):
        await enter(gate)
        clock.now += 0.01
        leave(gate, has_answered=True)
    await enter(gate, 2)
    first = await told(gate)
    assert first == SHORTEST_RETRY_SECONDS
    clock.now += 10  # both run still, so they are taken to be half done: 20 s, for two places
    assert await told(gate) == pytest.approx(SLACK * 20 / 2)


async def told(gate: Gate) -> float | None:
    with pytest.raises(OverloadedError) as caught:
        await enter(gate)
    return caught.value.retry_after_seconds


async def sent_away(gate: Gate, *, is_retry: bool = False) -> None:
    with pytest.raises(OverloadedError):
        await enter(gate, is_retry=is_retry)


async def cancelled(*tasks: "asyncio.Task[float]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_who_comes_back_to_a_free_engine_has_its_place() -> None:
    """And no other is kept for it: newcomers may have the whole queue."""
    clock = Clock()
    gate = Gate(1, 2, clock=clock)
    await enter(gate)
    waiting = [await queued(gate), await queued(gate)]
    await sent_away(gate)
    await cancelled(*waiting)
    leave(gate)
    clock.now += 1.5
    await enter(gate, is_retry=True)
    newcomers = [await queued(gate), await queued(gate)]
    await cancelled(*newcomers)


async def test_one_who_comes_back_into_the_queue_has_its_place() -> None:
    """Of two that are due, one has come: only one more place is kept."""
    clock = Clock()
    gate = Gate(1, 4, clock=clock)
    await enter(gate)
    waiting = [await queued(gate) for _ in range(4)]
    await sent_away(gate)
    await sent_away(gate)
    await cancelled(*waiting)
    clock.now += 2.1 * SLACK  # promised after SLACK and after twice that
    leave(gate)
    await enter(gate)
    came_back = asyncio.create_task(enter(gate, is_retry=True))
    await until(lambda: gate.waiting == 1)
    newcomers = [await queued(gate), await queued(gate)]
    await sent_away(gate)
    await cancelled(came_back, *newcomers)


async def test_a_light_one_follows_at_once_when_a_place_comes_back_from_one_that_gave_up() -> None:
    """Admitted and cancelled in the same moment: those behind must not wait for the next."""
    gate = Gate(1, 10)
    await enter(gate)
    first, second = await queued(gate), await queued(gate)
    leave(gate)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(1):
        await second
    assert (gate.running, gate.waiting) == (1, 0)


async def test_heavy_requests_make_the_queue_slower() -> None:
    gate = Gate(4, 10)
    await enter(gate, 4)
    light = await queued(gate, 1)
    assert gate.expected_wait_seconds() == pytest.approx(0.5)
    heavy = await queued(gate, 3)
    assert gate.expected_wait_seconds() == pytest.approx(1.25), "four places, a second each"
    await cancelled(light, heavy)


async def test_how_long_somebody_has_been_waiting() -> None:
    clock = Clock()
    gate = Gate(1, 10, clock)
    assert gate.oldest_seconds() == 0
    await enter(gate)
    first = await queued(gate)
    clock.now += 3
    second = await queued(gate, seconds=1000)
    clock.now += 2
    assert gate.oldest_seconds() == 5
    first.cancel()
    await asyncio.wait({first})
    assert gate.oldest_seconds() == 2
    leave(gate)
    await second
    assert gate.oldest_seconds() == 0
