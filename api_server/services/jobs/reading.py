"""Reads the bodies of the jobs API. Pure."""

import re

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.jobs import AiBatch, AiRequest
from api_server.services.reading import read_json

_KEY = re.compile(r"[\x21-\x7e]{1,200}")

_ONE = msgspec.json.Decoder(AiRequest)
_BATCH = msgspec.json.Decoder(AiBatch)


def read_request(body: bytes) -> AiRequest:
    """Raises `InvalidRequestError` that names the field."""
    return read_json(body, _ONE)


def read_batch(body: bytes) -> AiBatch:
    """Likewise."""
    return read_json(body, _BATCH)


def check_key(key: str | None) -> str | None:
    """The header `Idempotency-Key`, if it is one."""
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequestError(
            "Idempotency-Key: must be 1 to 200 printable ASCII characters without spaces.",
            param="idempotency_key",
        )
    return key
