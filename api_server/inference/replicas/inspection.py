"""Whether a replica has the slots and the context that somebody planned: it is asked before its
first request, and again after it was away.
"""

import asyncio
import logging

from api_server.errors import ApiError, ResourceNotAvailableError
from api_server.inference.catalogue import Model
from api_server.inference.dimensions import fault_of
from api_server.inference.handlers.engine_client import EngineClient

log = logging.getLogger(__name__)


class Inspection:
    """What is known of one replica. `name` is for people, times are the event loop's.

    `problem` is a sentence as long as it is not as planned; `is_due` whether it has to be asked
    before it gets a request. Where nothing is planned, or the engine cannot tell, neither is ever
    the case.
    """

    def __init__(self, model: Model, name: str) -> None:
        self.is_wanted = model.expected is not None and model.engine.dimensions_path is not None
        self.is_due = self.is_wanted
        self.problem: str | None = None
        self.again_at = 0.0
        """When a replica with a problem is asked again at the earliest."""
        self._model = model
        self._name = name
        self._asking: asyncio.Task[ApiError | None] | None = None

    def forget(self) -> None:
        """It is away: whatever comes back may be another one."""
        self.is_due = self.is_wanted
        self.problem = None

    def bars(self, now: float) -> bool:
        """Whether it is out of the question for now."""
        return self.problem is not None and now < self.again_at

    async def pass_(self, client: EngineClient) -> None:
        """Ask it if that is due; who comes meanwhile waits for the same answer.

        Raises what kept it from answering, and `ResourceNotAvailableError` where it is not as
        planned.
        """
        if self.is_due and not self.bars(asyncio.get_running_loop().time()):
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(client))
            error = await asyncio.shield(self._asking)
            if error is not None:
                raise error.with_traceback(None)
        if self.problem is not None:
            raise ResourceNotAvailableError(
                "The model's engine has not the slots or the context that were planned; its "
                "operator has to mend that.",
                retry_after_seconds=self._model.balancing.health_interval_seconds,
            )

    async def look(self, client: EngineClient) -> None:
        """Ask it, due or not. Raises `ApiError` where it does not answer."""
        found = await client.dimensions()
        assert self._model.expected is not None, "nothing is planned"
        problem = fault_of(self._model.engine, self._name, found, self._model.expected)
        if problem is not None and problem != self.problem:
            fields = {"model": self._model.id, "problem": problem}
            log.warning("an engine is not as planned and gets no requests", extra=fields)
        self.problem = problem
        self.is_due = problem is not None
        pause_seconds = self._model.balancing.health_interval_seconds
        self.again_at = asyncio.get_running_loop().time() + pause_seconds

    async def aclose(self) -> None:
        """End what runs."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self, client: EngineClient) -> ApiError | None:
        """An error is a value: perhaps nobody waits for it any more."""
        try:
            await self.look(client)
        except ApiError as exc:
            self.forget()
            return exc
        finally:
            self._asking = None
        return None
