"""One chunk of an engine's stream, as a Python object."""

from typing import Any

import msgspec

from api_server.errors import InferenceError

_decoder = msgspec.json.Decoder(dict[str, Any] | None)


def decode(data: bytes) -> dict[str, Any] | None:
    """The chunk, or None for the `null` that llama-server sends first for several prompts."""
    try:
        chunk: dict[str, Any] | None = _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise InferenceError("The model's engine sent something that is no event.") from exc
    return chunk
