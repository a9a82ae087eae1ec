"""Many who use, load, unload and give up at the same time: what must hold, holds in between."""

import asyncio
import contextlib
import random

import pytest

from api_server.errors import ApiError, InferenceError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.base import LoadedModel
from api_server.inference.model_manager import LLMModelManager
from tests.fake_handler import FakeHandler, fake_model

MEMORY = 1000
SIZES = {"a": 300, "b": 400, "c": 500, "d": 600}


class Watchful(FakeHandler):
    """Fails the test when a model is loaded twice, unloaded in use, or more is loaded than fits."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(sizes=SIZES)
        self.chance = chance
        self.there: set[str] = set()
        self.users: dict[str, int] = dict.fromkeys(SIZES, 0)
        self.taken = 0

    async def load(self, model: Model) -> str:
        assert model.id not in self.there
        self.there.add(model.id)
        self.taken += SIZES[model.id]
        assert self.taken <= MEMORY
        try:
            await asyncio.sleep(self.chance.random() * 0.004)
            if self.chance.random() < 0.2:
                raise InferenceError("a bad day")
        except BaseException:
            self._gone(model.id)
            raise
        return model.id

    async def unload(self, loaded_model: LoadedModel) -> None:
        assert not self.users[loaded_model.model_id]
        await asyncio.sleep(self.chance.random() * 0.002)
        assert not self.users[loaded_model.model_id]
        self._gone(loaded_model.model_id)

    def _gone(self, model_id: str) -> None:
        self.there.remove(model_id)
        self.taken -= SIZES[model_id]


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_gets_mixed_up(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api_server.inference.managed_model.FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr("api_server.inference.managed_model.LAST_RETRY_SECONDS", 0.002)
    chance = random.Random(seed)
    handler = Watchful(chance)
    manager = LLMModelManager(
        [fake_model(model_id, idle_seconds=0.005) for model_id in SIZES],
        [handler],
        free_memory_bytes=lambda: MEMORY - handler.taken,
        margin_bytes=0,
        busy_seconds=0.01,
    )
    served = 0

    async def use(model_id: str) -> None:
        nonlocal served
        async with manager.use(model_id) as loaded:
            assert loaded.model_object == model_id
            assert model_id in handler.there
            handler.users[model_id] += 1
            try:
                await asyncio.sleep(chance.random() * 0.003)
                served += 1
            finally:
                handler.users[model_id] -= 1

    async def someone() -> None:
        for _ in range(40):
            model_id = chance.choice("abcd")
            verb = chance.choice([use, use, use, manager.load, manager.unload])
            task = asyncio.ensure_future(verb(model_id))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.003)
                task.cancel()
            with contextlib.suppress(ApiError, asyncio.CancelledError):
                await task
            if chance.random() < 0.1:
                await manager.evict_idle()

    async with asyncio.timeout(30):
        await asyncio.gather(*(someone() for _ in range(12)))
        await manager.aclose()
    assert served > 50
    assert handler.there == set()
    assert [status.users for status in manager.states()] == [0, 0, 0, 0]
    assert manager._reserved_bytes == 0
