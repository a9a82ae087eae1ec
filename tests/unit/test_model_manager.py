"""Models come when they are needed, once, if they fit; and go when nobody needs them."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from api_server.errors import (
    ConfigurationError,
    EngineTimeoutError,
    InferenceError,
    ModelBusyError,
    ModelNotFoundError,
    NoSuitableHandlerError,
    ResourceNotAvailableError,
    ShuttingDownError,
)
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.managed_model import ModelStatus
from api_server.inference.memory import MIB, who_makes_room
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.replicas.replica_set import ReplicaSet
from tests.fake_handler import FAKE, FakeHandler, fake_model

PLENTY = 10**15


def manager_of(
    handler: FakeHandler,
    *models: Model,
    free: Callable[[], int] = lambda: PLENTY,
    busy_seconds: float = 1.0,
    load_seconds: float = 5.0,
) -> LLMModelManager:
    return LLMModelManager(
        models or [fake_model()],
        [handler],
        free_memory_bytes=free,
        margin_bytes=0,
        busy_seconds=busy_seconds,
        load_seconds=load_seconds,
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, a bounded time."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Clock:
    """In the place of `time`, for what knows models; it moves when it is told to."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("managed_model", "model_manager"):
        monkeypatch.setattr(f"api_server.inference.{module}.time", clock)
    return clock


def status(manager: LLMModelManager, model_id: str = "fake") -> ModelStatus:
    return next(each for each in manager.states() if each.id == model_id)


async def test_a_model_is_loaded_when_it_is_first_used() -> None:
    handler = FakeHandler()
    manager = manager_of(handler)
    assert status(manager).state == "unloaded"
    async with manager.use("fake") as loaded:
        assert loaded.model_object == "the weights of fake"
        now = status(manager)
        assert (now.state, now.users, now.error) == ("ready", 1, None)
    async with manager.use("fake") as again:
        assert again is loaded
    assert handler.diary == ["load fake"]
    now = status(manager)
    assert now.users == 0
    assert now.load_seconds is not None
    assert now.last_used_at is not None


async def test_an_unknown_model_is_told_with_those_there_are() -> None:
    manager = manager_of(FakeHandler())
    with pytest.raises(ModelNotFoundError, match=r"Known models: fake\."):
        await manager.load("nope")
    with pytest.raises(ModelNotFoundError):
        async with manager.use("nope"):
            pass
    with pytest.raises(ModelNotFoundError):
        await manager.unload("nope")
    with pytest.raises(ModelNotFoundError):
        manager.wire("nope")


async def test_concurrent_callers_share_one_load() -> None:
    handler = FakeHandler()
    handler.may_load.clear()
    manager = manager_of(handler)
    callers = [asyncio.create_task(manager.load("fake")) for _ in range(20)]
    await until(lambda: handler.diary)
    assert status(manager).state == "loading"
    handler.may_load.set()
    loaded = await asyncio.gather(*callers)
    assert len(set(map(id, loaded))) == 1
    assert handler.diary == ["load fake"]


async def test_a_caller_that_gives_up_does_not_end_the_load_of_others() -> None:
    handler = FakeHandler()
    handler.may_load.clear()
    manager = manager_of(handler)

    async def use() -> LoadedModel:
        async with manager.use("fake") as loaded:
            return loaded

    first, second = asyncio.create_task(use()), asyncio.create_task(use())
    await until(lambda: handler.diary)
    assert status(manager).users == 2
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert status(manager).users == 1
    handler.may_load.set()
    assert (await second).model_id == "fake"
    assert handler.diary == ["load fake"]


async def test_a_load_goes_on_when_all_who_wanted_it_have_left() -> None:
    handler = FakeHandler()
    handler.may_load.clear()
    manager = manager_of(handler)
    only = asyncio.create_task(manager.load("fake"))
    await until(lambda: handler.diary)
    only.cancel()
    await asyncio.wait({only})
    handler.may_load.set()
    await until(lambda: status(manager).state == "ready")


@pytest.mark.parametrize(
    "error",
    [
        InferenceError("the file is broken"),
        ConfigurationError("path is wrong"),
        ResourceNotAvailableError("no GPU"),
    ],
)
async def test_a_failed_load_is_told_and_not_tried_again_at_once(error: Exception) -> None:
    handler = FakeHandler(load_fault=error)
    manager = manager_of(handler)
    for _ in range(3):
        with pytest.raises(type(error), match=str(error)):
            await manager.load("fake")
    assert handler.diary == ["load fake"]
    now = status(manager)
    assert (now.state, now.error) == ("failed", str(error))


async def test_a_failed_load_can_be_tried_again_after_a_while(clock: Clock) -> None:
    handler = FakeHandler(load_fault=InferenceError("broken"))
    manager = manager_of(handler)
    for _ in range(2):
        with pytest.raises(InferenceError):
            await manager.load("fake")
        clock.now += 1.1
    assert handler.diary == ["load fake"] * 2
    with pytest.raises(InferenceError):  # the second pause is twice as long
        await manager.load("fake")
    assert handler.diary == ["load fake"] * 2
    handler.load_fault = None
    clock.now += 1.0
    assert (await manager.load("fake")).model_id == "fake"
    assert status(manager).error is None


async def test_a_defect_of_a_handler_is_an_inference_error() -> None:
    manager = manager_of(FakeHandler(load_fault=ZeroDivisionError("secret")))
    for _ in range(2):
        with pytest.raises(
            InferenceError, match=r"failed to load it \(ZeroDivisionError\)"
        ) as told:
            await manager.load("fake")
        assert "secret" not in str(told.value)
        assert str(told.value.__cause__) == "secret", "whoever calls it may know more"
    assert "secret" not in (status(manager).error or "")


async def test_a_handler_that_cancels_its_loading_itself() -> None:
    manager = manager_of(FakeHandler(load_fault=asyncio.CancelledError()))
    for _ in range(2):
        with pytest.raises(InferenceError, match="'fake' cancelled its loading itself"):
            await manager.load("fake")
    assert status(manager).state == "failed"


async def test_a_load_that_takes_too_long_is_given_up() -> None:
    handler = FakeHandler()
    handler.may_load.clear()
    manager = manager_of(handler, load_seconds=0.02)
    with pytest.raises(EngineTimeoutError, match=r"took longer than the 0\.02 s"):
        await manager.load("fake")


async def test_a_load_that_goes_on_after_its_time_keeps_its_memory_and_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api_server.inference.managed_model.FIRST_RETRY_SECONDS", 0.001)
    may_end = threading.Event()

    class InAThread(FakeHandler):
        async def load(self, model: Model) -> str:
            if not may_end.is_set():
                await asyncio.to_thread(may_end.wait, 5)
            return await super().load(model)

    handler = InAThread(sizes={"a": 600 * MIB, "b": 600 * MIB})
    models = (fake_model("a"), fake_model("b"))
    manager = manager_of(handler, *models, free=lambda: 1000 * MIB, load_seconds=0.05)
    for _ in range(3):
        with pytest.raises(EngineTimeoutError):
            await manager.load("a")
        assert status(manager, "a").state == "failed"
        await asyncio.sleep(0.01)  # longer than the pause before another try
    with pytest.raises(ResourceNotAvailableError, match="400 MiB are free"):
        await manager.load("b")
    may_end.set()
    await until(lambda: manager._models["a"].straggler is None)
    assert handler.diary == ["load a", "unload a"]
    await manager.load("b")
    await manager.load("a")
    assert handler.diary[2:] == ["load b", "load a"]
    assert manager._reserved_bytes == 0


async def test_closing_ends_a_load_that_took_too_long() -> None:
    handler = FakeHandler(sizes={"fake": 1})
    handler.may_load.clear()
    manager = manager_of(handler, load_seconds=0.01)
    with pytest.raises(EngineTimeoutError):
        await manager.load("fake")
    assert manager._reserved_bytes == 1
    await manager.aclose()
    assert manager._reserved_bytes == 0
    assert handler.diary == ["load fake"]


async def test_a_time_out_of_the_handlers_own_is_told_as_what_it_is() -> None:
    manager = manager_of(FakeHandler(load_fault=TimeoutError("the hub did not answer in 10 s")))
    with pytest.raises(InferenceError, match="TimeoutError"):
        await manager.load("fake")


async def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    handler = FakeHandler(sizes={"fake": 800 * MIB})
    free = 500 * MIB
    manager = manager_of(handler, free=lambda: free)
    with pytest.raises(ResourceNotAvailableError, match=r"about 800 MiB.*500 MiB are free\."):
        await manager.load("fake")
    assert handler.diary == []
    assert status(manager).state == "failed"
    free = 900 * MIB
    await manager.load("fake")  # at once: asking for memory costs nothing
    assert status(manager).needed_bytes == 800 * MIB


async def test_a_margin_stays_free() -> None:
    handler = FakeHandler(sizes={"fake": 800 * MIB})
    manager = LLMModelManager([fake_model()], [handler], free_memory_bytes=lambda: 900 * MIB)
    with pytest.raises(ResourceNotAvailableError, match=r"about 1056 MiB"):
        await manager.load("fake")


async def test_two_loads_at_once_do_not_share_the_same_memory() -> None:
    handler = FakeHandler(sizes={"a": 600 * MIB, "b": 600 * MIB})
    handler.may_load.clear()
    manager = manager_of(handler, fake_model("a"), fake_model("b"), free=lambda: 1000 * MIB)
    first = asyncio.create_task(manager.load("a"))
    await until(lambda: handler.diary == ["load a"])
    with pytest.raises(ResourceNotAvailableError, match="600 MiB of memory, and 400 MiB are free"):
        await manager.load("b")
    handler.may_load.set()
    await first


class Machine:
    """Memory that models of a `FakeHandler` take and give back."""

    def __init__(self, total: int, handler: FakeHandler) -> None:
        self.total = total
        self.handler = handler

    def free(self) -> int:
        taken = 0
        for line in self.handler.diary:
            verb, model_id = line.split()
            size = self.handler.sizes[model_id]
            taken += size if verb == "load" else -size
        return self.total - taken


async def test_idle_models_make_room_the_longest_unused_first() -> None:
    handler = FakeHandler(sizes=dict.fromkeys("abcd", 300 * MIB))
    machine = Machine(1000 * MIB, handler)
    manager = manager_of(handler, *map(fake_model, "abcd"), free=machine.free)
    for model_id in ("a", "b", "c", "a"):
        async with manager.use(model_id):
            await asyncio.sleep(0.002)
    await manager.load("d")
    assert handler.diary[3:] == ["unload b", "load d"]
    assert status(manager, "b").state == "unloaded"


async def test_models_in_use_never_make_room() -> None:
    handler = FakeHandler(sizes=dict.fromkeys("abc", 400 * MIB))
    machine = Machine(1000 * MIB, handler)
    manager = manager_of(handler, *map(fake_model, "abc"), free=machine.free)
    async with manager.use("a"), manager.use("b"):
        with pytest.raises(ResourceNotAvailableError, match="200 MiB are free"):
            await manager.load("c")
        assert handler.diary == ["load a", "load b"]
    await manager.load("c")
    assert handler.diary[2:] == ["unload b", "load c"]  # b was left first


async def test_none_goes_where_all_would_not_be_enough() -> None:
    handler = FakeHandler(sizes={"a": 300 * MIB, "big": 2000 * MIB})
    machine = Machine(1000 * MIB, handler)
    manager = manager_of(handler, fake_model("a"), fake_model("big"), free=machine.free)
    await manager.load("a")
    with pytest.raises(ResourceNotAvailableError, match="1000 MiB without the models"):
        await manager.load("big")
    assert handler.diary == ["load a"]


async def test_memory_that_does_not_come_back_is_not_counted_on() -> None:
    handler = FakeHandler(sizes={"a": 500 * MIB, "b": 800 * MIB})
    manager = manager_of(handler, fake_model("a"), fake_model("b"), free=lambda: 600 * MIB)
    await manager.load("a")
    with pytest.raises(ResourceNotAvailableError, match="600 MiB are free"):
        await manager.load("b")
    assert "load b" not in handler.diary


def test_who_makes_room() -> None:
    idle = [("a", 100), ("b", 200), ("c", 300)]
    assert who_makes_room("m", 50, 60, idle) == []
    assert who_makes_room("m", 150, 60, idle) == ["a"]
    assert who_makes_room("m", 161, 60, idle) == ["a", "b"]
    with pytest.raises(ResourceNotAvailableError):
        who_makes_room("m", 661, 60, idle)


async def test_unload_and_load_again() -> None:
    handler = FakeHandler()
    manager = manager_of(handler)
    await manager.load("fake")
    await manager.unload("fake")
    assert status(manager).state == "unloaded"
    await manager.unload("fake")  # twice is once
    await manager.load("fake")
    assert handler.diary == ["load fake", "unload fake", "load fake"]


async def test_unload_waits_for_those_who_use_it() -> None:
    handler = FakeHandler()
    manager = manager_of(handler)
    async with manager.use("fake"):
        unloading = asyncio.create_task(manager.unload("fake"))
        await asyncio.sleep(0.01)  # time enough to do it wrong
        assert not unloading.done()
        assert handler.diary == ["load fake"]
    await unloading
    assert handler.diary == ["load fake", "unload fake"]


async def test_unload_gives_up_after_a_while() -> None:
    manager = manager_of(FakeHandler(), busy_seconds=0.02)
    async with manager.use("fake"):
        with pytest.raises(ModelBusyError, match="in use by 1 requests") as caught:
            await manager.unload("fake")
        assert caught.value.status == 409
        assert status(manager).state == "ready"


async def test_an_unload_that_fails_is_logged_and_the_model_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(FakeHandler(unload_fault=ZeroDivisionError()))
    await manager.load("fake")
    await manager.unload("fake")
    assert status(manager).state == "unloaded"
    assert "failed to unload" in caplog.text


async def test_who_is_idle_for_too_long_goes(clock: Clock) -> None:
    handler = FakeHandler()
    models = [
        fake_model("soon", idle_seconds=2),
        fake_model("later", idle_seconds=60),
        fake_model("never"),
    ]
    manager = manager_of(handler, *models)
    for model in models:
        await manager.load(model.id)
    assert await manager.evict_idle() == []
    async with manager.use("soon"):
        clock.now += 3
        assert await manager.evict_idle() == []
    clock.now += 3
    assert await manager.evict_idle() == ["soon"]
    assert [each.state for each in manager.states()] == ["unloaded", "ready", "ready"]


async def test_the_manager_watches_for_idle_models_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api_server.inference.model_manager.SWEEP_SECONDS", 0.01)
    handler = FakeHandler()
    async with manager_of(handler, fake_model(idle_seconds=0.02)) as manager:
        await manager.load("fake")
        await until(lambda: status(manager).state != "ready")
    assert handler.diary == ["load fake", "unload fake"]


async def test_configured_models_are_loaded_and_one_that_fails_stops_no_other() -> None:
    handler = FakeHandler()
    models = [
        fake_model("a"),
        Model(id="broken", engine=FAKE, handler="no.such.module:Handler"),
        fake_model("b"),
        fake_model("later", load="on_demand"),
    ]
    manager = manager_of(handler, *models)
    await manager.load_configured_models()
    assert [each.state for each in manager.states()] == ["ready", "failed", "ready", "unloaded"]
    assert "no.such.module" in (status(manager, "broken").error or "")


async def test_closing_unloads_everything_and_ends_loads() -> None:
    handler = FakeHandler()
    manager = manager_of(handler, fake_model("a"), fake_model("b"))
    await manager.start()
    await manager.load("a")
    handler.may_load.clear()
    waiting = asyncio.create_task(manager.load("b"))
    await until(lambda: "load b" in handler.diary)
    await manager.aclose()
    with pytest.raises(ShuttingDownError):
        await waiting
    with pytest.raises(ShuttingDownError):
        await manager.load("a")
    assert handler.diary == ["load a", "load b", "unload a"]
    assert [each.state for each in manager.states()] == ["unloaded", "unloaded"]


async def test_closing_leaves_alone_what_is_still_in_use() -> None:
    handler = FakeHandler()
    manager = manager_of(handler, busy_seconds=0.02)
    async with manager.use("fake"):
        await manager.aclose()
        assert handler.diary == ["load fake"]


async def test_a_model_wanted_while_it_is_unloaded_is_loaded_anew() -> None:
    class SlowToLeave(FakeHandler):
        async def unload(self, loaded_model: LoadedModel) -> None:
            await asyncio.sleep(0.02)
            await super().unload(loaded_model)

    handler = SlowToLeave()
    manager = manager_of(handler)
    await manager.load("fake")
    unloading = asyncio.create_task(manager.unload("fake"))
    await until(lambda: status(manager).state == "unloaded")
    await manager.load("fake")
    await unloading
    assert handler.diary == ["load fake", "unload fake", "load fake"]


class Other(FakeHandler):
    """Another handler for the same models."""


async def test_handlers_are_asked_in_the_order_of_registration() -> None:
    first, second = FakeHandler(), Other()
    manager = manager_of(first)
    manager.register_handler(second)
    loaded = await manager.load("fake")
    assert manager.handler_for(loaded) is first
    manager = manager_of(second)
    manager.register_handler(first)
    assert manager.handler_for(await manager.load("fake")) is second


async def test_a_model_that_nobody_can_handle() -> None:
    manager = LLMModelManager([fake_model()])
    with pytest.raises(NoSuitableHandlerError, match=r"No handler serves 'fake' \(engine fake\)"):
        await manager.load("fake")
    manager.register_handler(FakeHandler())
    assert (await manager.load("fake")).model_id == "fake"  # no pause: nothing was tried


class BlindHandler(FakeHandler):
    """Loads what it then cannot handle."""

    def can_handle(self, loaded_model: LoadedModel) -> bool:  # noqa: ARG002
        return False


async def test_the_entry_can_name_its_handler() -> None:
    path = f"{__name__}:{BlindHandler.__name__}"
    manager = LLMModelManager([Model(id="m", engine=FAKE, handler=path)])
    loaded = await manager.load("m")
    assert loaded.model_object == "the weights of m"
    with pytest.raises(NoSuitableHandlerError):
        manager.handler_for(loaded)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nothing", "is no import path"),
        ("no.such.module:Handler", "cannot be imported"),
        ("tests.fake_handler:FAKE", "is no InferenceHandler"),
        ("tests.fake_handler:Nobody", "has no class Nobody"),
    ],
)
async def test_a_wrong_import_path_is_a_configuration_error(path: str, reason: str) -> None:
    manager = LLMModelManager([Model(id="m", engine=FAKE, handler=path)])
    with pytest.raises(ConfigurationError, match=reason):
        await manager.load("m")


async def test_a_model_over_http_has_one_way_for_everybody() -> None:
    model = Model(id="m", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1",))
    async with LLMModelManager([model], free_memory_bytes=lambda: 0) as manager:
        wire = manager.wire("m")
        assert isinstance(wire, ReplicaSet)
        async with manager.use("m") as loaded:
            assert loaded.model_object is wire
            assert isinstance(manager.handler_for(loaded), InferenceHandler)
        assert not status(manager, "m").is_in_process


async def test_a_broken_handler_of_one_model_does_not_stop_the_others() -> None:
    broken = Model(id="broken", engine=FAKE, handler="no.such.module:Handler")
    manager = LLMModelManager([broken, fake_model()], [FakeHandler()])
    assert not isinstance(manager.wire("broken"), ReplicaSet)
    assert manager.wire("fake") is manager.wire("fake")
    with pytest.raises(ConfigurationError, match=r"no\.such"):
        await manager.load("broken")


async def test_an_engine_behind_http_needs_a_url() -> None:
    manager = LLMModelManager([Model(id="m", engine=LLAMA_SERVER)])
    with pytest.raises(ConfigurationError, match="'m' has no replicas"):
        await manager.load("m")
