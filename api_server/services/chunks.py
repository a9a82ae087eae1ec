"""One chunk of an engine's stream: decoded, and checked as far as we rely on its shape. Pure."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api_server.errors import InferenceError


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: Annotated[int, Meta(ge=0, le=1023)] | None = None
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: Annotated[int, Meta(ge=0)] = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(dict[str, Any] | None)


def decode(data: bytes) -> dict[str, Any] | None:
    """The chunk, or None for the `null` that llama-server sends first for several prompts.

    Raises `InferenceError` for anything that is no chunk.
    """
    try:
        chunk: dict[str, Any] | None = _decoder.decode(data)
        if chunk is not None:
            msgspec.convert(chunk, _Chunk)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InferenceError("The model's engine sent something that is no event.") from exc
    return chunk
