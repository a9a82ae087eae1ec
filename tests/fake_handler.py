"""A handler whose models are words: for tests of what stands above handlers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from api_server.inference.catalogue import Model
from api_server.inference.engines import Engine
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.schemas import InferenceRequest, InferenceResponse

FAKE = Engine(name="fake", health_path="", handler="custom")


def fake_model(id_: str = "fake", **fields: Any) -> Model:
    """An entry that `FakeHandler` recognises."""
    return Model(id=id_, engine=FAKE, **fields)


@dataclass(eq=False)
class FakeHandler(InferenceHandler):
    """Writes `pieces`, one each `pause` seconds, and keeps a diary of what was asked of it.

    `sizes` are what the models need in bytes. `load_fault` and `fault` are raised: by a load, and
    after all pieces. While `may_load` is not set, loads wait.
    """

    pieces: Sequence[str | InferenceResponse] = ("one ", "two ", "three")
    pause: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    load_fault: BaseException | None = None
    unload_fault: BaseException | None = None
    fault: BaseException | None = None
    may_load: asyncio.Event = field(default_factory=asyncio.Event)
    diary: list[str] = field(default_factory=list)
    running: int = 0
    requests: list[InferenceRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_load.set()

    def can_handle(self, loaded_model: LoadedModel) -> bool:
        return loaded_model.config.engine is FAKE

    def needed_bytes(self, model: Model) -> int:
        return self.sizes.get(model.id, 0)

    async def load(self, model: Model) -> str:
        self.diary.append(f"load {model.id}")
        await self.may_load.wait()
        if self.load_fault is not None:
            raise self.load_fault
        return f"the weights of {model.id}"

    async def unload(self, loaded_model: LoadedModel) -> None:
        self.diary.append(f"unload {loaded_model.model_id}")
        if self.unload_fault is not None:
            raise self.unload_fault

    async def stream_infer(
        self, loaded_model: LoadedModel, request: InferenceRequest
    ) -> AsyncGenerator[str | InferenceResponse, None]:
        assert loaded_model.model_object is not None
        self.requests.append(request)
        self.running += 1
        try:
            for piece in self.pieces:
                await asyncio.sleep(self.pause)
                yield piece
            if self.fault is not None:
                raise self.fault
        finally:
            self.running -= 1
