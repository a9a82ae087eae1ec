"""The engine room for notebooks and scripts: from the stack file to answers, without a web server.

What `main.py` is for the gateway: the one place that knows both the settings and the library.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from api_server.composition import compose
from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.conversations import factory
from api_server.inference.conversations.store import Conversations, MemoryConversations
from api_server.inference.handlers.base import InferenceHandler
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import GenerationParams
from api_server.inference.service import LLMInferenceService
from api_server.schemas.apps import Caller
from api_server.services.conversations.inference import StoredInferenceFactory
from api_server.settings import load_settings


def load_models(config_path: str | Path | None = None) -> list[Model]:
    """The models of a stack file, by default that of the settings. Raises `ConfigurationError`."""
    path = None if config_path is None else Path(config_path)
    return load_settings(stack_config=path).models()


@asynccontextmanager
async def open_service(
    config_path: str | Path | None = None, handlers: Sequence[InferenceHandler] = ()
) -> AsyncIterator[LLMInferenceService]:
    """A service for the models of a stack file; models are loaded when they are first asked.

    `handlers` are one's own, asked before the built-in ones. At the end everything is unloaded.
    """
    async with LLMModelManager(load_models(config_path), handlers) as manager:
        yield LLMInferenceService(manager)


@asynccontextmanager
async def open_stored_inference(
    app: str, config_path: str | Path | None = None
) -> AsyncIterator[StoredInferenceFactory]:
    """A factory whose conversations are an app's threads in PostgreSQL, and whose answers are runs.

    They are done by this process or by any gateway or worker with the same database. `app` is a
    name or an id. Raises `ConfigurationError` without a database, or for an app that is not there.
    """
    path = None if config_path is None else Path(config_path)
    services = compose(load_settings(stack_config=path))
    kept = services.kept
    if kept.conversations is None or kept.runs is None:
        raise ConfigurationError("Stored conversations need PostgreSQL: set POSTGRES_URL.")
    async with services.running():
        found = services.access.directory.app(app)
        if found is None:
            raise ConfigurationError(f"There is no app {app!r}; `apps list` shows those there are.")
        yield StoredInferenceFactory(kept.conversations, kept.runs, Caller(found))


class InferenceFactory(factory.InferenceFactory):
    """The factory as the guide uses it: without arguments, and by its class.

    All that are made so share one memory of conversations, and in each event loop one service for
    the models of the settings. Its models stay loaded until that loop ends.
    """

    def __init__(
        self,
        service: LLMInferenceService | factory.ServiceSource | None = None,
        conversations: Conversations | None = None,
        params: GenerationParams | None = None,
    ) -> None:
        default = _default()
        super().__init__(
            default.service if service is None else service,
            default.conversations if conversations is None else conversations,
            params,
        )


class _Default:
    """What factories have who were given nothing. Connections belong to one event loop each."""

    def __init__(self) -> None:
        self.conversations = MemoryConversations()
        self._services: dict[asyncio.AbstractEventLoop, LLMInferenceService] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def service(self) -> LLMInferenceService:
        """The one of the running loop; made, from the settings, when it is first needed."""
        loop = asyncio.get_running_loop()
        if loop not in self._services:
            for closed in [each for each in self._services if each.is_closed()]:
                del self._services[closed], self._keepers[closed]  # its tasks were not ended
            self._services[loop] = LLMInferenceService(LLMModelManager(load_models()))
            self._keepers[loop] = asyncio.create_task(self._keep(loop))
        return self._services[loop]

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until the loop ends: `asyncio.run` and its like cancel every task, and wait for it."""
        try:
            await loop.create_future()
        finally:
            service = self._services.pop(loop)
            del self._keepers[loop]
            await asyncio.wait({asyncio.create_task(service.models.aclose())})


@cache
def _default() -> _Default:
    return _Default()
