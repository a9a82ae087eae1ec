"""Reads the bodies of the jobs API. Pure."""

import re
from typing import TypeVar

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.jobs import AiBatch, AiRequest

T = TypeVar("T")

_PATH = re.compile(r"^(?P<what>.*?) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

_ONE = msgspec.json.Decoder(AiRequest)
_BATCH = msgspec.json.Decoder(AiBatch)


def read_request(body: bytes) -> AiRequest:
    """Raises `InvalidRequestError` that names the field."""
    return _read(body, _ONE)


def read_batch(body: bytes) -> AiBatch:
    """Likewise."""
    return _read(body, _BATCH)


def check_key(key: str | None) -> str | None:
    """The header `Idempotency-Key`, if it is one."""
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequestError(
            "Idempotency-Key: must be 1 to 200 printable ASCII characters without spaces.",
            param="idempotency_key",
        )
    return key


def _read(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError("The body is not valid JSON.") from exc


def _explained(reason: str) -> InvalidRequestError:
    match = _PATH.match(reason)
    what = (match["what"] if match else reason).replace("`", "'")
    path = match["path"] if match else ""
    missing = re.match(r"Object missing required field '(\w+)'", what)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return InvalidRequestError(f"{path} is required.", param=path)
    if not path:
        return InvalidRequestError("The body must be a JSON object.")
    return InvalidRequestError(f"{path}: {what[:1].lower()}{what[1:]}.", param=path)
