"""That Qdrant's collections are there, for who sets the stack up: `prepare-stores` and tests.

urllib3 is synchronous: each call runs in a thread, and time-outs of its sockets end it.
"""

import asyncio
import json
from collections.abc import Mapping, Set
from typing import Any

import urllib3
from pydantic import ValidationError

from api_server.errors import SetupError, StoreAwayError
from api_server.schemas.store_layout import Collection, PayloadIndex

CONNECT_SECONDS = 2.0
READ_SECONDS = 30.0
"""For what is made on disk; a search must not wait so long."""

MAY_PASS = frozenset({408, 429})
"""Statuses below 500 that tell of the moment, not of the request."""

LAYOUT = "init-scripts/qdrant/collections.yaml"


class VectorSetup:
    """Nothing connects before the first call.

    Each call raises `StoreAwayError` where the server does not answer or is not ready, `SetupError`
    where it refuses the key or what is asked.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(
            headers={"api-key": api_key} if api_key else None,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
        )

    async def ensure_collection(self, wanted: Collection) -> list[str]:
        """Make a collection and its indexes where they are missing; returns what was made:
        the name, and `name.key` of each index.

        One that is there and differs in what cannot be changed is a `SetupError`, and is left as
        it is. Of several at the same time each succeeds, and more than one may say that it made
        an index.
        """
        path = f"/collections/{wanted.name}"
        made = []
        status, found = await self._ask("GET", path, besides={404})
        if status == 404:
            status, _ = await self._ask("PUT", path, collection_body(wanted), besides={409})
            if status != 409:  # else somebody was faster
                made.append(wanted.name)
            _, found = await self._ask("GET", path)
        for key in missing_indexes(wanted, found):
            await self._ask("PUT", f"{path}/index?wait=true", index_body(wanted, key))
            made.append(f"{wanted.name}.{key}")
        return made

    async def aclose(self) -> None:
        """Close the connections that nobody uses."""
        self._http.clear()

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        besides: Set[int] = frozenset(),
    ) -> tuple[int, Any]:
        """The status, 200 or one of those besides, and the `result` of the answer."""
        url = self._url + path
        try:
            answer = await asyncio.to_thread(self._http.request, method, url, json=body)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise StoreAwayError(
                f"Qdrant does not answer at QDRANT_URL ({type(exc).__name__}). Start it, or "
                "correct the address."
            ) from exc
        return answer.status, _result(answer.status, answer.data, besides)


def collection_body(wanted: Collection) -> dict[str, object]:
    """What makes a collection. Pure."""
    return {
        "vectors": {"size": wanted.vector_size, "distance": wanted.distance},
        "hnsw_config": wanted.hnsw.model_dump(),
    }


def index_body(wanted: Collection, key: str) -> dict[str, object]:
    """What makes one of its indexes. Pure."""
    return {
        "field_name": key,
        "field_schema": wanted.indexes[key].model_dump(exclude_defaults=True),
    }


def missing_indexes(wanted: Collection, found: Any) -> list[str]:
    """The keys without an index in a collection that Qdrant describes. Pure.

    Raises `SetupError` where what is there is not what is wanted.
    """
    vectors = found["config"]["params"]["vectors"]
    there = (vectors.get("size"), vectors.get("distance"))
    if there != (wanted.vector_size, wanted.distance):
        raise SetupError(
            f"Qdrant's collection {wanted.name} has vectors of {there[0]} numbers ({there[1]}), "
            f"and {LAYOUT} says {wanted.vector_size} ({wanted.distance}). Nothing was changed. "
            "Write there what the collection has; or, where the embedding model is another one "
            "now, give it a new name there, and index the files again."
        )
    indexes = {key: _shape(each) for key, each in found["payload_schema"].items()}
    for key, index in wanted.indexes.items():
        if indexes.get(key, index) != index:
            raise SetupError(
                f"Qdrant's collection {wanted.name} has another index of {key} than {LAYOUT} "
                f"says. Nothing was changed. Delete that index (DELETE /collections/{wanted.name}"
                f"/index/{key}), and run this again."
            )
    return [key for key in wanted.indexes if key not in indexes]


def _shape(index: Any) -> PayloadIndex | None:
    """An index as Qdrant describes it; None for a kind that is none of ours."""
    told = {"type": index["data_type"]} | (index.get("params") or {})
    try:
        return PayloadIndex(type=told["type"], is_tenant=told.get("is_tenant") or False)
    except ValidationError:
        return None


def _result(status: int, data: bytes, besides: Set[int]) -> Any:
    """The `result` of an answer. Pure."""
    if status >= 500 or status in MAY_PASS:
        raise StoreAwayError(f"Qdrant is at QDRANT_URL, and not ready (status {status}).")
    if status in {401, 403}:
        raise SetupError("Qdrant refuses QDRANT_API_KEY. Correct it.")
    try:
        document = json.loads(data)
        told = document["status"]
    except (ValueError, TypeError, KeyError):
        raise SetupError(
            f"What answers at QDRANT_URL is not Qdrant (status {status}). Correct the address."
        ) from None
    if status != 200 and status not in besides:
        why = told.get("error") if isinstance(told, dict) else told
        raise SetupError(f"Qdrant refuses this (status {status}): {why}")
    return document.get("result")
