"""The life of a request for embeddings: as that of a chat, but the answer comes in one piece."""

from collections.abc import Mapping
from functools import partial

import msgspec

from api_server.errors import InferenceError, InvalidRequestError
from api_server.inference.catalogue import Catalogue
from api_server.observability.record import RequestRecord
from api_server.services.client import Client
from api_server.services.lane import Lane, find_lane
from api_server.services.requests import EmbeddingJob, Kind, parse_embeddings
from api_server.services.upstream import embeddings_body

BYTES_PER_NUMBER = 4
"""base64 holds 32-bit floats."""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Vector(msgspec.Struct):
    embedding: list[float] | str


class _Answer(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


class _AnswerUnread(msgspec.Struct):
    data: msgspec.Raw
    usage: _Usage | None = None


class Embeddings:
    """Serves embeddings; the same lanes as completions use, for other models."""

    def __init__(self, catalogue: Catalogue, lanes: Mapping[str, Lane]) -> None:
        self._catalogue = catalogue
        self._lanes = lanes

    async def embed(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one request. Raises `ApiError` only as long as nothing was sent."""
        job = parse_embeddings(body)
        lane = find_lane(self._catalogue, self._lanes, job.model, "embeddings")
        record.model = lane.model.id
        upstream = embeddings_body(job, lane.model)
        ask = partial(lane.handler.ask, Kind.EMBEDDINGS.value, upstream, record.request_id)
        place = await lane.enter(job.inputs, record, is_retry=client.is_retry)
        try:
            answer = await lane.persist(ask, place, record)
        except InvalidRequestError as exc:
            exc.param = "input"  # nothing else of the request reaches the engine's judgement
            raise
        finally:
            lane.leave(place)
        record.begin("generating")
        _account(job, answer, record)
        await client.answer(answer)


def _account(job: EmbeddingJob, body: bytes, record: RequestRecord) -> None:
    """Note the usage. Raises for what is no answer, or not of the dimensions asked for."""
    try:
        if job.dimensions is None:
            usage = msgspec.json.decode(body, type=_AnswerUnread).usage
        else:
            answer = msgspec.json.decode(body, type=_Answer)
            usage = answer.usage
            _check_dimensions(job.dimensions, answer.data)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InferenceError("The model's engine sent something that is no answer.") from exc
    record.prompt_tokens = usage.prompt_tokens if usage else None


def _check_dimensions(wanted: int, vectors: list[_Vector]) -> None:
    for vector in vectors:
        if isinstance(vector.embedding, str):
            dimensions = len(vector.embedding.rstrip("=")) * 3 // 4 // BYTES_PER_NUMBER
        else:
            dimensions = len(vector.embedding)
        if dimensions != wanted:
            raise InvalidRequestError(
                f"This model's embeddings have {dimensions} dimensions, and cannot be cut to "
                f"{wanted}; leave dimensions out.",
                param="dimensions",
            )
