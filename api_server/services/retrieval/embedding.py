"""Asks the stack's embedding model for vectors, by the way that every request for them takes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
)
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.estimating import estimate_tokens
from api_server.observability.metrics import INGEST_ROUTE
from api_server.observability.record import RequestRecord
from api_server.schemas.apps import Caller
from api_server.services.client import Client
from api_server.services.jobs.asking import Listener, caller_of, new_record
from api_server.services.jobs.trouble import PutOff, outcome_of, pause_seconds
from api_server.stores.jobs import Taken

ROUTE = "/v1/embeddings"
PATIENCE_SECONDS = 30.0
"""So long an engine that is away or full is waited for, with a file in our hands; then it is put
off, and goes on later where it was.
"""

FAULTS_IN_A_ROW = 3
"""So often an engine may fail at the same texts."""

SHARE_OF_CONTEXT = 0.9
"""How much of a model's context a chunk takes by estimate."""

Ended = Callable[[RequestRecord], None]
Vector = Sequence[float]


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


def embedding_model(catalogue: Catalogue, wanted: str | None) -> Model | None:
    """The one that is wanted, else the first that serves embeddings; None where there is none."""
    models = [model for model in catalogue if model.serves == "embeddings"]
    return next((model for model in models if wanted in {None, model.id}), None)


@dataclass(frozen=True)
class Batches:
    """How many texts go into a request, and how many requests are under way at once."""

    size: int
    at_once: int


def batches_for(model: Model) -> Batches:
    """So that all slots have work, and as much again waits for them. Pure."""
    size = max(1, min(16, model.slots // 2))
    slots = model.slots * max(1, len(model.replicas))
    return Batches(size, max(2, 2 * slots // size))


class Contexts:
    """How long a text may be, for each model. Nobody tells, so that a text of that length is tried
    once: engines refuse before they compute.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}

    async def most_tokens(self, model: Model, wanted: int, asking: "Asking") -> int:
        """How long chunks are where so many tokens are wanted. Raises as `Asking.vectors` does."""
        if (model.id, wanted) not in self._known:
            self._known[model.id, wanted] = await _room(model, wanted, asking)
        return self._known[model.id, wanted]


async def _room(model: Model, wanted: int, asking: "Asking") -> int:
    """What stands before each text takes its part of the context."""
    bounds = [model.max_input_tokens, model.context_tokens]
    if model.expected is not None:
        bounds.append(model.expected.context_tokens)
    context = min((bound for bound in bounds if bound is not None), default=None)
    if context is None:
        try:
            await asking.vectors(["the " * wanted])
        except ContextLengthError as exc:
            context = exc.context_tokens or wanted // 2
    if context is None:
        return wanted
    before = tokens_of(asking.prefix) if asking.prefix else 0
    return max(1, min(wanted, int(SHARE_OF_CONTEXT * context) - before))


class Asking:
    """The model, asked for one file, in the name of its app. `prefix` comes before each text."""

    def __init__(
        self, embedder: Embedder, model: Model, job: Taken, ended: Ended, *, prefix: str = ""
    ) -> None:
        self.prefix = prefix
        self._embedder = embedder
        self._model = model
        self._job = replace(job, priority="batch")
        self._ended = ended
        self._asked = 0

    async def vectors(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text. Raises `ContextLengthError` for texts too long for the engine,
        and `ApiError` as it is when patience did not help.
        """
        waited, faults, tries = 0.0, 0, 0
        while True:
            try:
                return await self._ask(texts)
            except (InferenceError, EngineTimeoutError):
                faults += 1
                if faults == FAULTS_IN_A_ROW:
                    raise
                seconds = pause_seconds(faults, 0.0)
            except ApiError as exc:
                outcome = outcome_of(exc)
                if not isinstance(outcome, PutOff):
                    raise
                tries += 1
                seconds = pause_seconds(tries, outcome.at_least_seconds)
                if waited + seconds > PATIENCE_SECONDS:
                    raise
                waited += seconds
            await asyncio.sleep(seconds)

    async def _ask(self, texts: Sequence[str]) -> list[Vector]:
        self._asked += 1
        caller = caller_of(self._job)
        asked = [self.prefix + text for text in texts]
        return await ask(self._embedder, self._model.id, asked, caller, self._record(), self._ended)

    def _record(self) -> RequestRecord:
        """Each request is one of its own, for the ledger as well."""
        record = new_record(self._job, INGEST_ROUTE)
        digest = sha256(f"{record.request_id} {self._asked}".encode()).hexdigest()
        record.request_id = f"req_{digest[:32]}"
        return record


async def ask(
    embedder: Embedder,
    model: str,
    texts: Sequence[str],
    caller: Caller,
    record: RequestRecord,
    ended: Ended,
) -> list[Vector]:
    """A vector for each text, by one request; `ended` gets its record. Raises `ApiError`."""
    listener = Listener(caller)
    body = msgspec.json.encode({"model": model, "input": texts})
    try:
        await embedder.embed(body, listener, record)
        record.status = 200
    except ApiError as exc:
        record.status = exc.status
        record.fail("error", exc.code, exc.message, exc.log_level)
        raise
    except asyncio.CancelledError:
        record.fail("error", "cancelled", "nobody waits for it any more", record.log_level)
        raise
    finally:
        ended(record)
    return _read(listener.body, len(texts))


def tokens_of(text: str) -> int:
    """By estimate."""
    return estimate_tokens(text.encode("utf-8", "replace"))


def _read(body: bytes, count: int) -> list[Vector]:
    try:
        data = sorted(_ANSWER.decode(body).data, key=lambda each: each.index)
    except msgspec.MsgspecError as exc:
        raise InferenceError("The embedding engine sent something that is no answer.") from exc
    if len(data) != count or any(not each.embedding for each in data):
        raise InferenceError("The embedding engine sent another number of vectors than of texts.")
    return [each.embedding for each in data]
