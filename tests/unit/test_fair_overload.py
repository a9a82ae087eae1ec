"""Apps that want more than there is for minutes, on a clock that only moves when nobody has work.

Clients come back as they are told; what they were told must have been true.
"""

import asyncio
import random
import selectors
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import pytest

from api_server.errors import OverloadedError, QueueTimeoutError
from api_server.services.admission import Gate
from api_server.services.fairness import Flow

SECONDS = 120.0
TOKENS_PER_SECOND = 100


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self._loop.now += timeout
        return ready


@dataclass
class Clients:
    """The clients of one app; `mean_tokens` of an answer, which takes as long as it has tokens."""

    count: int
    mean_tokens: int = 20
    tokens: int = 0
    waits: list[float] = field(default_factory=list)
    came_back: int = 0
    came_back_in_vain: int = 0


class Stage:
    """An engine with slots, one surplus place and a queue before it."""

    def __init__(self, slots: int = 16, queue_size: int = 64, queue_seconds: float = 10) -> None:
        self._queue_seconds = queue_seconds
        self._slots = slots
        self._queue_size = queue_size
        self._random = random.Random(11)

    def run(self, apps: Mapping[Flow, Clients]) -> None:
        """Let them all ask, one request after the other, for some minutes."""
        loop = VirtualLoop()
        try:
            loop.run_until_complete(self._run(apps, loop))
        finally:
            loop.close()

    async def _run(self, apps: Mapping[Flow, Clients], loop: VirtualLoop) -> None:
        gate = Gate(self._slots + 1, self._queue_size, clock=loop.time)
        engine = asyncio.Semaphore(self._slots)
        async with asyncio.TaskGroup() as group:
            for flow, clients in apps.items():
                for _ in range(clients.count):
                    group.create_task(self._client(gate, engine, flow, clients, loop))
        assert (gate.running, gate.waiting) == (0, 0)

    async def _client(
        self,
        gate: Gate,
        engine: asyncio.Semaphore,
        flow: Flow,
        clients: Clients,
        loop: VirtualLoop,
    ) -> None:
        while loop.now < SECONDS:
            asked = loop.now
            entered = await self._enter(gate, flow, clients)
            async with engine:
                clients.waits.append(loop.now - asked)
                tokens = self._random.randint(1, 2 * clients.mean_tokens)
                await asyncio.sleep(tokens / TOKENS_PER_SECOND)
            if loop.now < SECONDS:
                clients.tokens += tokens
            gate.leave(1, entered, has_answered=True, tokens=tokens, flow=flow)

    async def _enter(self, gate: Gate, flow: Flow, clients: Clients) -> float:
        tries = 0
        while True:
            try:
                entered = await gate.enter(
                    1, deadline_seconds=self._queue_seconds, is_retry=tries > 0, flow=flow
                )
            except (OverloadedError, QueueTimeoutError) as exc:
                clients.came_back_in_vain += tries == 1
                clients.came_back += tries == 1
                tries += 1
                await asyncio.sleep(exc.retry_after_seconds or 0.0)
            else:
                clients.came_back += tries == 1
                return entered


def flow(name: str, weight: float = 4.0) -> Flow:
    return Flow(name, "default", weight)


def work(*apps: Clients) -> float:
    """The share of what the engine can do that was done."""
    return sum(app.tokens for app in apps) / (16 * TOKENS_PER_SECOND * SECONDS)


def truth(app: Clients) -> float:
    """The share of those that came back as told, and were let in or had a place in the queue."""
    assert app.came_back > 50
    return 1 - app.came_back_in_vain / app.came_back


def test_one_app_alone_has_everything_and_is_told_the_truth() -> None:
    heavy = Clients(300)
    Stage().run({flow("heavy"): heavy})
    assert work(heavy) > 0.98
    assert truth(heavy) > 0.99


def test_a_light_app_hardly_feels_a_heavy_one() -> None:
    """The mean time between two free slots is 12.5 ms; it waits for one, twice at the most."""
    heavy, light = Clients(500), Clients(1)
    Stage().run({flow("heavy"): heavy, flow("light"): light})
    assert quantiles(light.waits, n=20)[-1] < 0.1
    assert light.came_back == 0, "it is never sent away"
    assert work(heavy, light) > 0.95
    assert truth(heavy) > 0.9


@pytest.mark.parametrize("mean_tokens", [20, 200])
def test_two_heavy_apps_share_by_weight_whatever_the_length_of_their_answers(
    mean_tokens: int,
) -> None:
    one, other = Clients(200), Clients(200, mean_tokens)
    Stage(queue_seconds=60).run({flow("one", 8.0): one, flow("other", 4.0): other})
    assert one.tokens / (one.tokens + other.tokens) == pytest.approx(2 / 3, rel=0.05)
    assert work(one, other) > 0.95


def test_batch_goes_on_beside_all_others() -> None:
    """Most clients are asleep until they may come back, a little later than they could: what that
    leaves free goes to whoever comes.
    """
    urgent, normal, batch = Clients(200), Clients(200), Clients(200)
    apps = {
        Flow("urgent", "interactive", 16.0): urgent,
        Flow("normal", "default", 4.0): normal,
        Flow("batch", "batch", 1.0): batch,
    }
    Stage(queue_seconds=60).run(apps)
    total = urgent.tokens + normal.tokens + batch.tokens
    assert batch.tokens / total == pytest.approx(1 / 21, rel=0.25)
    assert urgent.tokens / total == pytest.approx(16 / 21, rel=0.1)
    assert work(urgent, normal, batch) > 0.95


def test_many_light_apps_beside_a_heavy_one() -> None:
    lights = {flow(f"light {number}"): Clients(1) for number in range(10)}
    heavy = Clients(500)
    Stage().run({flow("heavy"): heavy} | lights)
    for light in lights.values():
        assert quantiles(light.waits, n=20)[-1] < 0.25
        assert light.came_back == 0
    assert work(heavy, *lights.values()) > 0.95
