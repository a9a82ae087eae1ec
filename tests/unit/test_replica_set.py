"""Which replica is tried, how often, and what is left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from api_server.errors import (
    ApiError,
    EngineBusyError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    NoAnswerError,
    ResourceNotAvailableError,
    TruncatedAnswerError,
)
from api_server.inference.catalogue import Balancing, Model, Retries
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.event_stream import OnEnd
from api_server.inference.replicas.replica_set import ReplicaSet
from api_server.inference.replicas.retrying import RetryBudget, pause_seconds
from api_server.inference.wire import Call

QUICK = Retries(first_delay_seconds=0.001, max_delay_seconds=0.002)
BALANCING = Balancing(
    health_interval_seconds=0.01, slow_start_seconds=0.05, open_seconds=0.02, max_open_seconds=0.05
)


class Stream:
    """An open stream; `on_end` is told what the test wants."""

    def __init__(self, on_end: OnEnd) -> None:
        self.on_end = on_end


class Client:
    """Stands for one engine: fails as told, then answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: list[ApiError] = []
        self.always: Callable[[], ApiError] | None = None
        self.wait: Callable[[], Awaitable[object]] | None = None
        self.calls = 0
        self.is_well = True

    async def ask(
        self, _path: str, _body: bytes, _id: str, on_sent: Callable[[], None] | None = None
    ) -> bytes:
        self.calls += 1
        failure = self.failures[0] if self.failures else self.always() if self.always else None
        was_refused = type(failure) is ResourceNotAvailableError
        if on_sent is not None and not was_refused:
            on_sent()
        if self.wait is not None:
            await self.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.always is not None:
            raise self.always()
        return self.name.encode()

    async def open_stream(
        self,
        path: str,
        body: bytes,
        id_: str,
        on_end: OnEnd,
        on_sent: Callable[[], None] | None = None,
    ) -> Stream:
        await self.ask(path, body, id_, on_sent)
        return Stream(on_end)

    async def is_ready(self) -> bool:
        return self.is_well

    async def aclose(self) -> None:
        return


class Rig:
    """A set of replicas over scripted clients."""

    def __init__(self, count: int, **fields: Any) -> None:
        urls = tuple(f"http://127.0.0.1:{n + 1}" for n in range(count))
        settings: dict[str, Any] = {"retries": QUICK, "balancing": BALANCING} | fields
        model = Model(id="m", engine=LLAMA_SERVER, replicas=urls, **settings)
        self.noticed: list[int] = []
        self.set = ReplicaSet(model, lambda replicas: self.noticed.append(replicas.sound))
        self.clients = [Client(str(n)) for n in range(count)]
        for replica, client in zip(self.set.replicas, self.clients, strict=True):
            replica.client = cast("Any", client)
        self.retried: list[ApiError] = []

    def call(self, seconds: float = 1.0, prefix: bytes = b"") -> Call:
        deadline = asyncio.get_running_loop().time() + seconds
        return Call("/p", b"{}", "id", 1, prefix, deadline, self.retried.append)

    async def ask(self, seconds: float = 1.0, prefix: bytes = b"") -> bytes:
        return await self.set.ask(self.call(seconds, prefix))

    @property
    def calls(self) -> list[int]:
        return [client.calls for client in self.clients]

    def assert_nothing_in_flight(self) -> None:
        assert [replica.in_flight for replica in self.set.replicas] == [0] * len(self.clients)


def refused() -> ResourceNotAvailableError:
    return ResourceNotAvailableError("refused")


def cold(rig: Rig) -> bytes:
    """A prefix whose first choice is the first replica."""
    for n in range(1000):
        prefix = b"%d" % n
        replica = rig.set.choose(rig.call(prefix=prefix), set())
        if replica is rig.set.replicas[0]:
            return prefix
    raise AssertionError("no prefix likes the first replica")


# one replica


async def test_an_engine_that_is_away_is_tried_until_it_is_back() -> None:
    rig = Rig(1)
    rig.clients[0].failures = [refused() for _ in range(6)]
    assert await rig.ask() == b"0"
    assert rig.calls == [7]
    assert rig.noticed == [0, 1], "its breaker opened and closed"
    rig.assert_nothing_in_flight()


async def test_after_the_deadline_the_last_error_is_told() -> None:
    rig = Rig(1)
    rig.clients[0].always = refused
    with pytest.raises(ResourceNotAvailableError):
        await rig.ask(seconds=0.1)
    assert 3 < rig.calls[0] < 12, "the breaker keeps the tries few"


async def test_who_comes_while_all_breakers_are_open_does_not_reach_an_engine() -> None:
    rig = Rig(1, balancing=Balancing(open_seconds=5))
    rig.clients[0].always = refused
    for _ in range(2):
        with pytest.raises(ResourceNotAvailableError) as caught:
            await rig.ask(seconds=0.05)
    assert rig.calls == [3]
    assert 3 <= int(caught.value.headers["retry-after"]) <= 5


async def test_a_request_without_an_answer_is_sent_once_more_only() -> None:
    rig = Rig(1)
    rig.clients[0].failures = [NoAnswerError("gone")]
    assert await rig.ask() == b"0"
    assert rig.calls == [2]
    rig.clients[0].always = lambda: NoAnswerError("gone")
    with pytest.raises(NoAnswerError):
        await rig.ask()
    assert rig.calls == [4]


@pytest.mark.parametrize("error", [InferenceError("500"), EngineTimeoutError("silence")])
async def test_a_sole_engine_is_not_asked_again_what_it_failed_to_answer(error: ApiError) -> None:
    rig = Rig(1)
    rig.clients[0].failures = [error]
    with pytest.raises(type(error)):
        await rig.ask()
    assert rig.calls == [1]


@pytest.mark.parametrize(
    "error", [InferenceError("500"), EngineTimeoutError("silence"), NoAnswerError("gone")]
)
async def test_what_one_client_asks_does_not_shut_others_out(error: ApiError) -> None:
    """Requests that an engine cannot serve must not make it unavailable for those it can."""
    rig = Rig(1, balancing=Balancing(open_seconds=60, max_open_seconds=60))
    rig.clients[0].failures = [error] * 20
    for _ in range(10):
        with pytest.raises(type(error)):
            await rig.ask(seconds=0.0)
    assert rig.noticed == [0]
    rig.clients[0].failures = []
    assert await rig.ask(seconds=0.0) == b"0"


async def test_one_that_is_back_serves_all_while_the_first_still_waits_for_its_answer() -> None:
    rig = Rig(1, balancing=Balancing(open_seconds=0.02))
    rig.clients[0].always = refused
    with pytest.raises(ResourceNotAvailableError):
        await rig.ask(seconds=0.1)
    rig.clients[0].always = None
    answering = asyncio.Event()
    rig.clients[0].wait = answering.wait
    await asyncio.sleep(0.03)
    slow = [asyncio.create_task(rig.ask()) for _ in range(5)]
    async with asyncio.timeout(5):
        while rig.set.replicas[0].in_flight < 5:
            await asyncio.sleep(0.005)
    answering.set()
    assert await asyncio.gather(*slow) == [b"0"] * 5


async def test_an_engine_that_asks_for_peace_gets_it_though_it_also_failed() -> None:
    rig = Rig(1)
    rig.clients[0].failures = [InferenceError("500") for _ in range(3)]
    for _ in range(3):
        with pytest.raises(InferenceError):
            await rig.ask()
    rig.clients[0].failures = [EngineBusyError("429", engine_asks_seconds=30)]
    for _ in range(3):
        with pytest.raises(ResourceNotAvailableError):
            await rig.ask(seconds=0.0)
    assert rig.calls == [4]


async def test_the_engines_own_retry_after_is_kept() -> None:
    rig = Rig(1)
    loop = asyncio.get_running_loop()
    rig.clients[0].failures = [EngineBusyError("429", engine_asks_seconds=0.05)]
    started = loop.time()
    assert await rig.ask() == b"0"
    assert loop.time() - started >= 0.045
    rig.clients[0].failures = [EngineBusyError("429", engine_asks_seconds=7)]
    with pytest.raises(EngineBusyError) as caught:
        await rig.ask()
    assert caught.value.headers["retry-after"] == "7"
    calls = rig.calls
    with pytest.raises(ResourceNotAvailableError) as next_one:
        await rig.ask()
    assert rig.calls == calls, "nobody else asks meanwhile"
    assert 6 <= int(next_one.value.headers["retry-after"]) <= 7


async def test_an_engine_that_gives_no_time_is_asked_less_and_less_often() -> None:
    rig = Rig(1)
    for _ in range(2):
        rig.clients[0].failures = [EngineBusyError("loading") for _ in range(5)]
        assert await rig.ask() == b"0"
        assert rig.set.replicas[0].refusals == 0, "it begins anew each time"


# several replicas


@pytest.mark.parametrize(
    "error",
    [
        refused(),
        EngineBusyError("429", engine_asks_seconds=60),
        NoAnswerError("gone"),
        InferenceError("500"),
        EngineTimeoutError("silence"),
    ],
)
async def test_another_replica_answers_what_one_failed_to(error: ApiError) -> None:
    rig = Rig(2)
    prefix = cold(rig)
    rig.clients[0].failures = [error]
    assert await rig.ask(seconds=0.0, prefix=prefix) == b"1", "going elsewhere is no waiting"
    assert rig.calls == [1, 1]
    assert rig.retried == [error]
    rig.assert_nothing_in_flight()


async def test_what_is_the_clients_fault_is_told_at_once() -> None:
    rig = Rig(2)
    rig.clients[0].failures = [InvalidRequestError("bad")]
    with pytest.raises(InvalidRequestError):
        await rig.ask(prefix=cold(rig))
    assert rig.calls == [1, 0]


async def test_what_engines_have_seen_goes_to_one_more_only() -> None:
    rig = Rig(4)
    for client in rig.clients:
        client.always = lambda: InferenceError("500")
    with pytest.raises(InferenceError):
        await rig.ask()
    assert sum(rig.calls) == 2
    rig = Rig(4, retries=Retries(0.001, 0.002, resends=2))
    for client in rig.clients:
        client.always = lambda: InferenceError("500")
    with pytest.raises(InferenceError):
        await rig.ask()
    assert sum(rig.calls) == 3


async def test_what_no_engine_has_seen_goes_to_all_of_them() -> None:
    rig = Rig(5)
    for client in rig.clients[:4]:
        client.always = refused
    for _ in range(20):
        assert await rig.ask(seconds=0.0) == b"4"
    assert max(rig.calls[:4]) <= 4, "and then their breakers are open"


async def test_the_budget_bounds_what_is_sent_again() -> None:
    rig = Rig(2, retries=Retries(0.001, 0.002, budget=0.1), slots=1)
    rig.clients[0].always = lambda: InferenceError("500")
    rig.clients[1].always = lambda: InferenceError("500")
    for _ in range(100):
        with pytest.raises(InferenceError):
            await rig.ask()
    assert sum(rig.calls) == 100 + 12 + 9, "what is in reserve, and a tenth of what follows"


async def test_a_replica_that_failed_often_is_left_out_and_tried_again_later() -> None:
    rig = Rig(2)
    prefix = cold(rig)
    rig.clients[0].failures = [EngineTimeoutError("silence") for _ in range(3)]
    for _ in range(10):
        assert await rig.ask(prefix=prefix) == b"1"
    assert rig.calls[0] == 3
    assert rig.noticed == [1]
    await asyncio.sleep(0.03)
    assert await rig.ask(prefix=prefix) == b"0", "the trial"
    assert rig.noticed == [1, 2]


async def test_one_that_comes_back_gets_its_share_slowly() -> None:
    rig = Rig(2)
    replica = rig.set.replicas[0]
    now = asyncio.get_running_loop().time()
    for _ in range(3):
        replica.ended(0, now, trial=0, is_whole=False, error=refused())
    replica.probed(now, is_well=True)
    assert replica.state(now) == "warming"
    assert replica.room(now) == 1
    assert 1.9 < replica.room(now + 0.025) < 2.1
    assert replica.room(now + 0.051) == 4


async def test_health_probes_find_out_who_is_down_and_who_is_back() -> None:
    rig = Rig(2)
    prefix = cold(rig)
    await rig.set.start()
    try:
        rig.clients[0].is_well = False
        async with asyncio.timeout(5):
            while rig.set.sound == 2:
                await asyncio.sleep(0.005)
        assert await rig.ask(prefix=prefix) == b"1"
        assert rig.calls[0] == 0
        rig.clients[0].is_well = True
        async with asyncio.timeout(5):
            while rig.set.sound == 1:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.06)
        assert await rig.ask(prefix=prefix) == b"0"
    finally:
        await rig.set.aclose()
    assert rig.noticed == [1, 2]


async def test_a_health_route_alone_does_not_take_all_replicas_away() -> None:
    rig = Rig(2)
    for replica in rig.set.replicas:
        for _ in range(2):
            replica.probed(0.0, is_well=False)
        assert replica.state(0.0) == "down"
    assert await rig.ask(seconds=0.0) in (b"0", b"1")


async def test_who_waits_is_woken_when_a_replica_comes_back() -> None:
    rig = Rig(2, balancing=Balancing(open_seconds=60, max_open_seconds=60, failures=1))
    for client in rig.clients:
        client.failures = [refused()]
    waiting = asyncio.create_task(rig.ask(seconds=100))
    async with asyncio.timeout(5):
        while rig.set.sound:
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    rig.set.replicas[1].probed(asyncio.get_running_loop().time(), is_well=True)
    rig.set._look_around()
    assert await asyncio.wait_for(waiting, 1) == b"1"


async def test_a_probe_that_fails_as_none_should_does_not_end_the_watch() -> None:
    rig = Rig(2)
    probes = 0

    async def is_ready() -> bool:
        nonlocal probes
        probes += 1
        raise RuntimeError("a defect")

    rig.clients[0].is_ready = is_ready  # type: ignore[method-assign]
    await rig.set.start()
    try:
        async with asyncio.timeout(5):
            while probes < 3:
                await asyncio.sleep(0.005)
    finally:
        await rig.set.aclose()


async def test_ready_is_whoever_has_one_replica_that_is() -> None:
    rig = Rig(3)
    for client in rig.clients[:2]:
        client.is_well = False
    assert await rig.set.is_ready()
    rig.clients[2].is_well = False
    assert not await rig.set.is_ready()


# what is in flight


async def test_a_stream_is_in_flight_until_it_is_closed() -> None:
    rig = Rig(1)
    stream = cast("Any", await rig.set.open_stream(rig.call()))
    assert rig.set.replicas[0].in_flight == 1
    stream.on_end(is_whole=True, error=None)
    rig.assert_nothing_in_flight()


async def test_streams_that_break_off_open_the_breaker_though_they_began() -> None:
    rig = Rig(1, balancing=Balancing())
    for _ in range(3):
        stream = cast("Any", await rig.set.open_stream(rig.call()))
        stream.on_end(is_whole=False, error=TruncatedAnswerError("cut"))
    assert rig.noticed == [0]


async def test_streams_that_clients_leave_say_nothing_bad_of_the_replica() -> None:
    rig = Rig(1)
    for _ in range(5):
        rig.clients[0].failures = [InferenceError("500"), InferenceError("500")]
        for _ in range(2):
            with pytest.raises(InferenceError):
                await rig.ask()
        stream = cast("Any", await rig.set.open_stream(rig.call()))
        stream.on_end(is_whole=False, error=None)
    assert rig.noticed == [], "never three in a row"
    rig.assert_nothing_in_flight()


async def test_a_stream_that_does_not_open_is_not_in_flight() -> None:
    rig = Rig(1)
    rig.clients[0].failures = [InferenceError("500")]
    with pytest.raises(InferenceError):
        await rig.set.open_stream(rig.call())
    rig.assert_nothing_in_flight()


async def test_a_call_that_is_cancelled_since_its_time_is_over_is_a_silence() -> None:
    rig = Rig(1, balancing=Balancing())
    rig.clients[0].wait = asyncio.Event().wait
    for is_over in (False, True):
        for _ in range(3):
            call = rig.call()
            if is_over:
                call.gives_up_at = asyncio.get_running_loop().time() + 0.01
            asking = asyncio.create_task(rig.set.open_stream(call))
            await asyncio.sleep(0.02)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert rig.noticed == ([0] if is_over else [])
    rig.assert_nothing_in_flight()


async def test_a_call_that_is_cancelled_leaves_nothing_in_flight_and_no_trial() -> None:
    rig = Rig(1)
    for _ in range(3):
        rig.set.replicas[0].ended(0, 0.0, trial=0, is_whole=False, error=refused())
    forever = asyncio.Event()
    rig.clients[0].wait = forever.wait
    for _ in range(2):
        asking = asyncio.create_task(rig.ask())
        await asyncio.sleep(0.03)
        assert rig.set.replicas[0].in_flight == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        rig.assert_nothing_in_flight()
    assert rig.calls == [2], "the second was let through as a trial as well"


# pauses


def test_pauses_double_up_to_a_bound_and_all_of_it_is_chance() -> None:
    retries = Retries(first_delay_seconds=0.1, max_delay_seconds=1.0)
    assert [pause_seconds(retries, n, 1.0) for n in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert pause_seconds(retries, 3, 0.25) == 0.2
    assert pause_seconds(retries, 10_000, 0.0) == 0.0


def test_a_budget_grows_with_the_traffic_up_to_its_reserve() -> None:
    budget = RetryBudget(0.5, 3)
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()
    for _ in range(100):
        budget.deposit()
    assert sum(budget.withdraw() for _ in range(100)) == 3
