"""Redis through redis-py: a client behind a `Dependency`, and Lua scripts from files.

Only commands and Lua of Redis 6.2, which is what pip can install.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import redis.asyncio as driver
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api_server.stores.dependency import Dependency

T = TypeVar("T")
Client = driver.Redis

LUA = Path(__file__).parent / "lua"
BUDGET_SECONDS = 0.05
"""Requests wait for Redis, so that it gets this long and no more."""

CONNECT_SECONDS = 1.0
PAUSE_SECONDS = 0.5
"""Between trials, however long an outage was or how often Redis came and went: processes that share
limits must find it again together, or some of them admit too much.
"""

MOST_CONNECTIONS = 32
CLOSED = "the handler is closed"
"""What uvloop says of a connection that was reset while nobody used it; the driver passes it on."""

FAULTS: tuple[type[BaseException], ...] = (
    OSError,
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,  # nothing can be counted or kept: as good as away
)


class Redis:
    """Nothing connects before the first call. Raises `DependencyDownError` where Redis is away."""

    def __init__(self, url: str) -> None:
        self.dependency = Dependency(
            "redis", FAULTS, longest_pause_seconds=PAUSE_SECONDS, remembers=False
        )
        self._client = Client.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=CONNECT_SECONDS,
            max_connections=MOST_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
        )

    def script(self, name: str) -> "Script":
        """The script of `lua/NAME.lua`; Redis gets its text once and then its digest."""
        return Script(self, (LUA / f"{name}.lua").read_text(encoding="utf-8"))

    async def use(
        self,
        work: Callable[[Client], Awaitable[T]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> T:
        """Do something with the client, within a time budget."""

        async def run() -> T:
            if self.dependency.is_on_trial:  # idle connections may be dead without knowing it
                await self._client.connection_pool.disconnect(inuse_connections=False)
            try:
                return await work(self._client)
            except RuntimeError as exc:
                if CLOSED not in str(exc):
                    raise
                raise exceptions.ConnectionError(CLOSED) from exc

        return await self.dependency.call(run, budget_seconds=budget_seconds)

    async def aclose(self) -> None:
        await self.dependency.aclose()
        await self._client.aclose()


class Script:
    """One Lua script, which runs as one atomic step."""

    def __init__(self, redis: Redis, text: str) -> None:
        self._redis = redis
        self._text = text

    async def run(
        self,
        keys: Sequence[str],
        arguments: Sequence[str | bytes | int | float],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Any:
        """What the script returns: bytes, integers, lists of them."""

        async def run(client: Client) -> Any:
            script = client.register_script(self._text)
            return await script(keys=list(keys), args=list(arguments))

        return await self._redis.use(run, budget_seconds=budget_seconds)
