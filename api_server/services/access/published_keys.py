"""The keys that an identity provider publishes at a URL (JWKS), kept in memory and up to date.

An outage over there changes nothing: the keys that are known stay good.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt

from api_server.errors import DependencyDownError, UnknownSignerError

REFRESH_SECONDS = 300.0
ASK_AGAIN_SECONDS = 30.0
"""For a key that is not known, the provider is asked no more often than this."""

FETCH_SECONDS = 10.0
MOST_KEYS = 100
ALGORITHMS = frozenset({"RS256", "ES256"})

Fetch = Callable[[], Awaitable[Mapping[str, Any]]]

log = logging.getLogger(__name__)


class PublishedKeys:
    """`fetch` gets the JSON document of the URL; it raises whatever goes wrong."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[tuple[str | None, str], jwt.PyJWK] | None = None
        self._document: Mapping[str, Any] | None = None
        self._asked_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.version = 0
        """Grows when the keys change, so that tokens are verified anew."""

    def key(self, kid: object, algorithm: str) -> tuple[jwt.PyJWK, str]:
        """The key of that id, or the only one where a token names none.

        Raises `UnknownSignerError`; `DependencyDownError` where that is because the provider does
        not answer.
        """
        keys = self._keys or {}
        found = keys.get((kid, algorithm)) if isinstance(kid, str) else None
        if found is None and kid is None:
            fitting = [key for (_, of), key in keys.items() if of == algorithm]
            found = fitting[0] if len(fitting) == 1 else None
        if found is not None:
            return found, algorithm
        may_learn = self._may_ask or self._fetching is not None
        if not may_learn and (self._keys is None or self._failed):
            raise DependencyDownError(
                "the server with the keys of tokens (JWT_JWKS_URL)",
                retry_after_seconds=ASK_AGAIN_SECONDS,
            )
        raise UnknownSignerError(
            "This token is not accepted: it is signed with a key that is not among the published "
            "ones (kid)."
        )

    @property
    def _may_ask(self) -> bool:
        return self._asked_at is None or self._clock() - self._asked_at >= ASK_AGAIN_SECONDS

    async def refresh_for_unknown(self) -> None:
        """Fetch the keys, unless that was done a moment ago; those who come together share it."""
        if self._fetching is None and not self._may_ask:
            return
        await self._refresh()

    async def start(self) -> None:
        """Begin to keep up. Nobody waits for the provider."""
        self._task = asyncio.create_task(self._keep_up())

    async def aclose(self) -> None:
        tasks = [task for task in (self._task, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def _keep_up(self) -> None:
        while True:
            await self._refresh()
            await asyncio.sleep(ASK_AGAIN_SECONDS if self._failed else REFRESH_SECONDS)

    async def _refresh(self) -> None:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_once())
        await asyncio.wait({self._fetching})

    async def _fetch_once(self) -> None:
        self._asked_at = self._clock()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                document = await self._fetch()
            keys = read_keys(document)
        except Exception as exc:  # noqa: BLE001 - of a library and of somebody else's server
            self._failed = True
            fields = {"reason": type(exc).__name__, "known_keys": len(self._keys or {})}
            log.warning("the published keys of tokens cannot be fetched", extra=fields)
        else:
            self._failed = False
            if document != self._document:
                self._keys, self._document = keys, document
                self.version += 1
        finally:
            self._fetching = None


def read_keys(document: Mapping[str, Any]) -> dict[tuple[str | None, str], jwt.PyJWK]:
    """The keys that can sign, by id and algorithm. Secret or unknown kinds are left out. Pure.

    Raises `ValueError` where there is no list of keys.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("no list of keys")  # noqa: TRY004 - of the document
    found: dict[tuple[str | None, str], jwt.PyJWK] = {}
    for entry in entries[:MOST_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC"}:
            continue
        if entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError) as exc:
            log.warning("a published key cannot be read", extra={"reason": type(exc).__name__})
            continue
        if key.algorithm_name in ALGORITHMS:
            found[key.key_id, key.algorithm_name] = key
    return found
