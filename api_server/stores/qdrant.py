"""Qdrant over its REST API, behind a `Dependency`: one call, within its budget."""

import asyncio
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from api_server.errors import InternalError
from api_server.stores.dependency import Dependency
from api_server.stores.http_client import Answer, HttpClient

BUDGET_SECONDS = 2.0
MAY_PASS = frozenset({401, 403, 408, 429})
"""Statuses below 500 that tell of the server or of the moment, not of the request."""


class QdrantFaultError(Exception):
    """It answers, and cannot do anything for us now: it starts, is full, or refuses our key."""


FAULTS: tuple[type[BaseException], ...] = (OSError, EOFError, QdrantFaultError)


class _Said(msgspec.Struct):
    """Of an answer, what says why a request was refused."""

    status: Any = None


_said = msgspec.json.Decoder(_Said)


class Qdrant:
    """Nothing connects before the first call. Raises `DependencyDownError` where it is away."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.dependency = Dependency("qdrant", FAULTS)
        self._http = HttpClient(url, {"api-key": api_key} if api_key else {})

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        besides: Set[int] = frozenset(),
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Answer:
        """Its answer: of status 200, or one of those besides.

        What is asked may be done twice. Raises `InternalError` where it refuses what is asked.
        """
        content = None if body is None else msgspec.json.encode(body)

        async def exchange() -> Answer:
            if self.dependency.is_on_trial:  # idle connections may be dead without knowing it
                self._http.forget_idle()
            answer = await self._http.ask(method, path, content)
            if answer.status >= 500 or answer.status in MAY_PASS:
                raise QdrantFaultError(f"status {answer.status}")
            return answer

        answer = await self.dependency.call(exchange, budget_seconds=budget_seconds)
        if answer.status != 200 and answer.status not in besides:
            raise InternalError(f"Qdrant refuses {method} {path} ({why_refused(answer)}).")
        return answer

    async def aclose(self) -> None:
        await self.dependency.aclose()
        self._http.forget_idle()
        await asyncio.sleep(0)  # closed connections are told so in the next turn


def why_refused(answer: Answer) -> str:
    """In Qdrant's words. Pure."""
    try:
        status = _said.decode(answer.body).status
    except msgspec.DecodeError:
        status = None
    told = status.get("error") if isinstance(status, dict) else status
    return f"status {answer.status}: {str(told)[:500]}"
