"""Answers in Redis, each app's by itself: for a time, and up to a number of bytes for each app."""

from redis.exceptions import ResponseError

from api_server.errors import DependencyDownError
from api_server.stores.redis import BUDGET_SECONDS, Redis


class Answers:
    """Raises `DependencyDownError` where Redis is away, hangs, is too slow or full.

    An app's keys carry its id in braces, so that a cluster keeps them on one node.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        ttl_seconds: float,
        max_app_bytes: int,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._redis = redis
        self._budget_seconds = budget_seconds
        self._ttl_seconds = ttl_seconds
        self._max_app_bytes = max_app_bytes
        self._keep = redis.script("keep_answer")

    async def get(self, app_id: str, name: str) -> bytes | None:
        """The answer of that name, None where there is none any more."""
        try:
            found = await self._redis.use(
                lambda client: client.get(_prefix(app_id) + name),
                budget_seconds=self._budget_seconds,
            )
        except ResponseError as exc:
            raise DependencyDownError("redis") from exc
        return found if isinstance(found, bytes) else None

    async def put(self, app_id: str, name: str, answer: bytes) -> None:
        """Keep an answer; the app's oldest ones make room for it."""
        prefix = _prefix(app_id)
        try:
            await self._keep.run(
                [prefix + name, f"{prefix}by_end", f"{prefix}sizes"],
                [name, answer, self._ttl_seconds, self._max_app_bytes, prefix],
                budget_seconds=self._budget_seconds,
            )
        except ResponseError as exc:  # no memory left, for one
            raise DependencyDownError("redis") from exc


def _prefix(app_id: str) -> str:
    return f"answers:{{{app_id}}}:"
