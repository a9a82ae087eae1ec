"""All replicas of one model: chooses one for each call, tries another when that fails."""

from api_server.inference.catalogue import Model
from api_server.inference.handlers.engine_client import EngineClient
from api_server.inference.wire import Call, EventSource


class ReplicaSet:
    """The `Wire` to the engines of one model over HTTP. Nothing connects before the first call.

    `start` begins to watch the replicas' health, `aclose` ends that and drops idle connections;
    calls may be made before, between and after.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._client = EngineClient(model)

    async def start(self) -> None:
        """Begin to watch the health of several replicas."""

    async def aclose(self) -> None:
        """End what `start` began, drop idle connections."""
        await self._client.aclose()

    async def ask(self, call: Call) -> bytes:
        """One answer in one piece."""
        return await self._client.ask(call.path, call.body, call.request_id)

    async def open_stream(self, call: Call) -> EventSource:
        """Start a generation and wait for its first event."""
        return await self._client.open_stream(call.path, call.body, call.request_id)

    async def count_tokens(self, call: Call) -> int | None:
        """How many tokens a chat has, by the engine's own count."""
        return await self._client.count_tokens(call.body, call.request_id)

    async def is_ready(self) -> bool:
        """Whether one replica at least could serve a token now."""
        return await self._client.is_ready()
