"""The models as their operator sees and drives them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from api_server.errors import InvalidRequestError, ModelMisconfiguredError, SetupError
from api_server.inference.managed_model import ModelStatus
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.replicas.replica_set import ReplicaSet


@dataclass(frozen=True)
class ReplicaStatus:
    """One engine of a model as of now: `state` is a word of its breaker or of its health."""

    url: str
    is_usable: bool
    state: str
    in_flight: int
    problem: str | None = None


class Models(Protocol):
    """What an operator may ask and do."""

    def states(self) -> Sequence[ModelStatus]:
        """All models, in the order of the catalogue."""

    async def load(self, model_id: str) -> None:
        """Load a model if it is not; may take minutes. Raises `ApiError`."""

    async def unload(self, model_id: str) -> None:
        """Give back what a model takes once nobody uses it; waits for that. Raises `ApiError`."""

    def replicas(self, model_id: str) -> Sequence[ReplicaStatus]:
        """The engines of a model behind HTTP; none for one in this process."""


class ManagedModels:
    """`Models` of a manager, in this process: each worker has its own."""

    def __init__(self, manager: LLMModelManager) -> None:
        self._manager = manager

    def states(self) -> Sequence[ModelStatus]:
        return self._manager.states()

    async def load(self, model_id: str) -> None:
        try:
            await self._manager.load(model_id)
        except SetupError as exc:
            raise ModelMisconfiguredError(str(exc)) from exc

    async def unload(self, model_id: str) -> None:
        model = self._manager.catalogue.find(model_id)
        if not model.is_in_process:
            raise InvalidRequestError(
                f"'{model_id}' is loaded by its own engine ({model.engine.name}): stop that. Only "
                "models in the gateway's process can be unloaded.",
                param="model_id",
            )
        await self._manager.unload(model_id)

    def replicas(self, model_id: str) -> Sequence[ReplicaStatus]:
        if self._manager.catalogue.find(model_id).is_in_process:
            return ()
        wire = self._manager.wire(model_id)
        if not isinstance(wire, ReplicaSet):
            return ()
        now = asyncio.get_running_loop().time()
        return [
            ReplicaStatus(
                each.url,
                each.room(now) > 0 and each.inspection.problem is None,
                each.state(now),
                each.in_flight,
                each.inspection.problem,
            )
            for each in wire.replicas
        ]
