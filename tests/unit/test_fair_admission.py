"""A gate that several apps want to enter: whose turn it is, who must go, what each is told."""

import asyncio
from collections.abc import Callable

import pytest

from api_server.errors import OverloadedError
from api_server.services.admission import SLACK, Gate
from api_server.services.fairness import Flow

HEAVY, LIGHT, THIRD = (Flow(name, "default", 4.0) for name in ("heavy", "light", "third"))
URGENT, BATCH = Flow("urgent", "interactive", 16.0), Flow("batch", "batch", 1.0)
Entering = asyncio.Task[float]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(1):
        while not condition():
            await asyncio.sleep(0)


def entering(
    gate: Gate, flow: Flow, *, weight: int = 1, seconds: float = 9999, is_retry: bool | None = False
) -> Entering:
    return asyncio.create_task(
        gate.enter(weight, deadline_seconds=seconds, is_retry=is_retry, flow=flow)
    )


async def queued(gate: Gate, flow: Flow, count: int = 1, weight: int = 1) -> list[Entering]:
    tasks = []
    for _ in range(count):
        tasks.append(entering(gate, flow, weight=weight))
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # those in whose place they come are told
    return tasks


async def told(gate: Gate, flow: Flow, *, is_retry: bool = False) -> float:
    """In how many seconds one of this flow shall come back, who is refused at once."""
    with pytest.raises(OverloadedError) as caught:
        await entering(gate, flow, is_retry=is_retry)
    return caught.value.retry_after_seconds or 0.0


async def ended(*tasks: Entering) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def let_one_in(gate: Gate, flow: Flow, tokens: int = 100) -> None:
    """One of this flow has its answer."""
    gate.leave(1, gate._clock(), has_answered=True, tokens=tokens, flow=flow)


async def test_a_light_app_is_next_whatever_a_heavy_one_has_in_the_queue() -> None:
    gate = Gate(1, 100)
    await entering(gate, HEAVY)
    many = await queued(gate, HEAVY, 50)
    (light,) = await queued(gate, LIGHT)
    let_one_in(gate, HEAVY)
    await light
    assert gate.waiting == 50
    await ended(*many)


async def test_flows_take_turns_by_weight() -> None:
    gate = Gate(1, 100)
    await entering(gate, THIRD)
    order: list[str] = []

    async def come(flow: Flow) -> None:
        await gate.enter(1, deadline_seconds=9999, is_retry=False, flow=flow)
        order.append(flow.app)
        let_one_in(gate, flow)

    flows = (BATCH, LIGHT, URGENT)
    tasks = [asyncio.create_task(come(flow)) for flow in flows for _ in range(30)]
    await until(lambda: gate.waiting == 90)
    let_one_in(gate, THIRD)
    await asyncio.gather(*tasks)
    first = order[:21]
    assert {name: first.count(name) for name in ("urgent", "light", "batch")} == {
        "urgent": 16,
        "light": 4,
        "batch": 1,
    }


async def test_a_full_queue_has_room_for_an_app_with_less_in_it() -> None:
    """The newest of the largest goes; as long as that has more, and not beyond."""
    gate = Gate(1, 4)
    await entering(gate, HEAVY)
    heavy = await queued(gate, HEAVY, 4)
    light = await queued(gate, LIGHT)
    light += await queued(gate, LIGHT)
    assert gate.waiting == 4
    assert [task.done() for task in heavy] == [False, False, True, True]
    for task in heavy[2:]:
        error = task.exception()
        assert isinstance(error, OverloadedError)
        assert int(error.headers["retry-after"]) >= 1
    await told(gate, LIGHT)
    await told(gate, HEAVY)
    await ended(*heavy, *light)


async def test_the_bound_is_shared_by_weight() -> None:
    gate = Gate(1, 20)
    await entering(gate, BATCH)
    batch = await queued(gate, BATCH, 20)
    urgent = await queued(gate, URGENT, 40)
    left = [sum(not task.done() for task in tasks) for tasks in (urgent, batch)]
    assert sum(left) == 20
    assert left[0] >= 18
    assert left[1] >= 1, "the least has a place still"
    await ended(*batch, *urgent)


async def test_one_that_came_back_as_told_is_not_sent_away_before_others() -> None:
    clock = Clock()
    gate = Gate(1, 3, clock=clock)
    await entering(gate, HEAVY)
    heavy = await queued(gate, HEAVY, 3)
    clock.now += await told(gate, HEAVY)
    await ended(heavy.pop())
    came_back = entering(gate, HEAVY, is_retry=True)
    await until(lambda: gate.waiting == 3)
    light = await queued(gate, LIGHT)
    assert not came_back.done()
    assert heavy[-1].done()
    await ended(came_back, *heavy, *light)


async def test_promises_to_one_app_do_not_lock_others_out() -> None:
    """All of the queue's places are promised, and one is there."""
    clock = Clock()
    gate = Gate(1, 4, clock=clock)
    await entering(gate, HEAVY)
    heavy = await queued(gate, HEAVY, 4)
    for _ in range(20):
        await told(gate, HEAVY)
    await ended(*heavy)
    assert await told(gate, HEAVY) > 0, "its own newcomers must leave them alone"
    light = await queued(gate, LIGHT)
    assert gate.waiting == 1
    await ended(*light)


async def test_one_that_comes_back_as_told_has_its_place_beside_others() -> None:
    clock = Clock()
    gate = Gate(1, 4, clock=clock)
    await entering(gate, HEAVY)
    heavy, light = await queued(gate, HEAVY, 2), await queued(gate, LIGHT, 2)
    clock.now += await told(gate, HEAVY)
    let_one_in(gate, HEAVY)
    await until(lambda: gate.waiting == 3)
    came_back = entering(gate, HEAVY, is_retry=True)
    await until(lambda: gate.waiting == 4)
    await ended(came_back, *heavy, *light)


async def test_each_is_told_of_its_own_wait() -> None:
    gate = Gate(2, 100, clock=Clock())
    await entering(gate, HEAVY)
    await entering(gate, HEAVY)
    assert gate.expected_wait_seconds(HEAVY) == pytest.approx(0.5), "two places, a second each"
    heavy = await queued(gate, HEAVY, 9)
    assert gate.expected_wait_seconds(HEAVY) == pytest.approx(5)
    assert gate.expected_wait_seconds(LIGHT) == pytest.approx(1), "every other place is its own"
    assert gate.expected_wait_seconds(BATCH) == pytest.approx(2.5)
    assert gate.expected_wait_seconds(URGENT) == pytest.approx(0.625)
    light = await queued(gate, LIGHT)
    assert gate.expected_wait_seconds(HEAVY) == pytest.approx(10)
    await ended(*heavy, *light)


async def test_a_long_queue_of_one_app_is_no_reason_to_refuse_another() -> None:
    gate = Gate(1, 100, clock=Clock())
    await entering(gate, HEAVY)
    heavy = await queued(gate, HEAVY, 20)
    with pytest.raises(OverloadedError):
        await entering(gate, HEAVY, seconds=5)
    light = entering(gate, LIGHT, seconds=5)
    await until(lambda: gate.waiting == 21)
    await ended(light, *heavy)


async def test_refusals_book_at_the_pace_of_their_own_flow() -> None:
    clock = Clock()
    gate = Gate(2, 4, clock=clock)
    await entering(gate, HEAVY)
    await entering(gate, HEAVY)
    heavy, light = await queued(gate, HEAVY, 2), await queued(gate, LIGHT, 2)
    each = SLACK * 0.5 * 2  # two places, a second each, of which every other one is its own
    assert [await told(gate, HEAVY) for _ in range(3)] == pytest.approx([each, 2 * each, 3 * each])
    assert [await told(gate, LIGHT) for _ in range(3)] == pytest.approx([each, 2 * each, 3 * each])
    await ended(*heavy, *light)


async def test_an_app_with_longer_answers_gets_fewer_places_and_is_told_so() -> None:
    gate = Gate(1, 100, clock=Clock())
    for flow, tokens in ((HEAVY, 1000), (LIGHT, 100)) * 200:
        await entering(gate, flow)
        held_seconds = tokens / 100
        gate.leave(1, gate._clock() - held_seconds, has_answered=True, tokens=tokens, flow=flow)
    await entering(gate, THIRD)
    waiting = [*await queued(gate, HEAVY), *await queued(gate, LIGHT)]
    ratio = gate.expected_wait_seconds(HEAVY) / gate.expected_wait_seconds(LIGHT)
    assert ratio == pytest.approx(10, rel=0.01)
    await ended(*waiting)


async def test_a_light_request_whose_turn_it_is_does_not_wait_for_a_heavy_one_of_another() -> None:
    gate = Gate(4, 100)
    await entering(gate, HEAVY, weight=3)
    heavy = await queued(gate, HEAVY, weight=2)
    light = entering(gate, LIGHT)
    await asyncio.wait_for(light, 1)
    assert gate.running == 4
    await ended(*heavy)


async def test_one_sent_away_and_cancelled_in_the_same_moment_leaves_no_trace() -> None:
    gate = Gate(1, 2)
    await entering(gate, HEAVY)
    first, second = await queued(gate, HEAVY, 2)
    light = entering(gate, LIGHT)
    asyncio.get_running_loop().call_soon(second.cancel)
    await asyncio.gather(second, return_exceptions=True)
    assert (gate.running, gate.waiting) == (1, 2)
    let_one_in(gate, HEAVY)
    await light
    let_one_in(gate, LIGHT)
    await first
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_storm_of_arrivals_departures_and_refusals_leaves_no_trace() -> None:
    """Many apps, few places, clients that leave at any moment."""
    gate = Gate(3, 8)
    flows = [Flow(f"app{number}", "default", 1.0 + number) for number in range(5)]
    entered = 0

    async def visit(number: int) -> None:
        nonlocal entered
        flow = flows[number % len(flows)]
        weight = 1 + number % 3
        began = await gate.enter(weight, deadline_seconds=0.05, is_retry=None, flow=flow)
        entered += 1
        assert gate.running <= 3
        try:
            await asyncio.sleep(0.0005 * (number % 4))
        finally:
            gate.leave(weight, began, has_answered=number % 5 > 0, tokens=number, flow=flow)

    tasks = []
    for number in range(600):
        tasks.append(asyncio.create_task(visit(number)))
        if number % 7 == 0:
            tasks[number // 2].cancel()
        if number % 3 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered > 10
    assert (gate.running, gate.waiting) == (0, 0)
    await entering(gate, HEAVY)
