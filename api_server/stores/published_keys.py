"""Fetches the JSON document with an identity provider's keys, in a thread of its own."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import jwt

SOCKET_SECONDS = 5.0


class KeyServer:
    """PyJWT's client blocks, so that it runs in a thread; one that hangs does not delay our end."""

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=SOCKET_SECONDS)

    async def fetch(self) -> Mapping[str, Any]:
        """The document. Raises what PyJWT and sockets raise; who waits sets a time-out."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()

        def deliver(document: Mapping[str, Any] | None, error: Exception | None) -> None:
            if answer.done():  # nobody waits any more
                return
            if error is not None:
                answer.set_exception(error)
            elif document is not None:
                answer.set_result(document)

        def run() -> None:
            document, error = None, None
            try:
                document = self._client.fetch_data()
            except Exception as exc:  # noqa: BLE001 - the edge of the thread: told to who waits
                error = exc
            try:
                loop.call_soon_threadsafe(deliver, document, error)
            except RuntimeError:  # the loop is closed
                return

        threading.Thread(target=run, name="published-keys", daemon=True).start()
        return await answer
