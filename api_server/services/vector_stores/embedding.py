"""Turns questions into vectors, as every request for embeddings is done, in the name of an app."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from api_server.errors import ApiError, InferenceError
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import Caller
from api_server.services.client import Client
from api_server.services.jobs.asking import Listener

ROUTE = "/v1/embeddings"

Ended = Callable[[RequestRecord], None]


class Embedder(Protocol):
    """`services.embeddings.Embeddings`."""

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one request."""


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Embedding]


_ANSWER = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True)
class Questions:
    """`model` is the embedding model's id; `ended` gets the record of each request; `prefix` comes
    before each question.
    """

    embedder: Embedder
    model: str
    ended: Ended
    prefix: str = ""

    async def vectors(self, caller: Caller, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each. Raises `ApiError` as the embedding engine's lane does."""
        record = RequestRecord(f"req_{secrets.token_hex(16)}", "POST", ROUTE, route=ROUTE)
        record.app_id, record.app, record.user = caller.app.id, caller.app.name, caller.user
        listener = Listener(caller)
        body = msgspec.json.encode(
            {"model": self.model, "input": [self.prefix + each for each in texts]}
        )
        try:
            await self.embedder.embed(body, listener, record)
            record.status = 200
        except ApiError as exc:
            record.status = exc.status
            record.fail("error", exc.code, exc.message, exc.log_level)
            raise
        except asyncio.CancelledError:
            record.fail("cancelled", "cancelled", "nobody waits for it", record.log_level)
            raise
        finally:
            self.ended(record)
        return _read(listener.body, len(texts))


def _read(body: bytes, count: int) -> list[list[float]]:
    try:
        data = sorted(_ANSWER.decode(body).data, key=lambda each: each.index)
    except msgspec.MsgspecError as exc:
        raise InferenceError("The embedding engine sent something that is no answer.") from exc
    if len(data) != count:
        raise InferenceError("The embedding engine sent another number of vectors than of texts.")
    return [each.embedding for each in data]
