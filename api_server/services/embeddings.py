"""The life of a request for embeddings: as that of a chat, but the answer comes in one piece.

More inputs than the engine has slots go up in parts, one after the other.
"""

import asyncio
from collections.abc import Mapping

import msgspec

from api_server.errors import EngineTimeoutError, InvalidRequestError
from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.services.access.permissions import check_model
from api_server.services.answers import read_answer
from api_server.services.client import Client
from api_server.services.entrance import Entrance
from api_server.services.lane import Lane, Place, find_lane
from api_server.services.requests import EmbeddingJob, Kind, parse_embeddings
from api_server.services.upstream import embeddings_bodies
from api_server.services.usage import BYTES_OF_A_TOKEN

BYTES_PER_NUMBER = 4
"""base64 holds 32-bit floats."""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0
    object: str = "embedding"


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage = msgspec.field(default_factory=_Usage)
    object: str = "list"
    model: str = ""


_answers = msgspec.json.Decoder(_Answer)
_embeddings = msgspec.json.Decoder(list[float] | str)


class Embeddings:
    """Serves embeddings; the same lanes as completions use, for other models."""

    def __init__(self, catalogue: Catalogue, lanes: Mapping[str, Lane], entrance: Entrance) -> None:
        self._catalogue = catalogue
        self._lanes = lanes
        self._entrance = entrance

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one request. Raises `ApiError` only as long as nothing was sent."""
        job = parse_embeddings(body)
        check_model(client.caller, job.model)
        lane = find_lane(self._catalogue, self._lanes, job.model, "embeddings")
        visit = await self._entrance.enter(
            client.caller, lane.model, record, lambda: _guessed_tokens(job)
        )
        try:
            answer = await _embedded(job, lane, client, record)
        except asyncio.CancelledError:
            visit.left(record, lambda: _guessed_tokens(job))
            raise
        finally:
            visit.end(record)
        await client.answer(answer)


async def _embedded(job: EmbeddingJob, lane: Lane, client: Client, record: RequestRecord) -> bytes:
    """The answer, within the time that it may take."""
    total_seconds = lane.model.timeouts.total_seconds
    place = await lane.enter(job.inputs, record, is_retry=client.is_retry, caller=client.caller)
    try:
        async with asyncio.timeout(total_seconds):
            return await _ask(job, lane, place, record)
    except TimeoutError as exc:
        raise EngineTimeoutError(
            f"The embeddings took longer than the {total_seconds:g} s allowed."
        ) from exc
    except InvalidRequestError as exc:
        exc.param = exc.param or "input"  # nothing else reaches the engine's judgement
        raise
    finally:
        lane.leave(place)


def _guessed_tokens(job: EmbeddingJob) -> int:
    return len(bytes(job.fields["input"])) // BYTES_OF_A_TOKEN


async def _ask(job: EmbeddingJob, lane: Lane, place: Place, record: RequestRecord) -> bytes:
    """The vectors of all inputs; what comes in one part passes as it came.

    Raises for what is no answer, or not of the dimensions asked for.
    """
    parts: list[_Answer] = []
    for body in embeddings_bodies(job, lane.model):
        raw = await lane.wire.ask(lane.call(Kind.EMBEDDINGS.value, body, place, record))
        lane.answered(place)
        parts.append(read_answer(_answers, raw))
        if job.dimensions is not None:
            _check_dimensions(job.dimensions, parts[-1].data)
    record.begin("generating")
    record.prompt_tokens = sum(part.usage.prompt_tokens for part in parts)
    return raw if len(parts) == 1 else msgspec.json.encode(_joined(parts))


def _joined(parts: list[_Answer]) -> _Answer:
    vectors = [vector for part in parts for vector in sorted(part.data, key=lambda v: v.index)]
    for index, vector in enumerate(vectors):
        vector.index = index
    usage = _Usage(
        sum(part.usage.prompt_tokens for part in parts),
        sum(part.usage.total_tokens for part in parts),
    )
    return _Answer(vectors, usage, model=parts[-1].model)


def _check_dimensions(wanted: int, vectors: list[_Vector]) -> None:
    for vector in vectors:
        embedding = read_answer(_embeddings, bytes(vector.embedding))
        if isinstance(embedding, str):
            dimensions = len(embedding.rstrip("=")) * 3 // 4 // BYTES_PER_NUMBER
        else:
            dimensions = len(embedding)
        if dimensions != wanted:
            raise InvalidRequestError(
                f"This model's embeddings have {dimensions} dimensions, and cannot be cut to "
                f"{wanted}; leave dimensions out.",
                param="dimensions",
            )
