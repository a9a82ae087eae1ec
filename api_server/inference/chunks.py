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


Json = dict[str, Any]

MAX_ARGUMENTS = 1024 * 1024
"""Letters in the arguments of one call."""

_decoder = msgspec.json.Decoder(Json | None)


def decode(data: bytes) -> Json | None:
    """The chunk, or None for the `null` that llama-server sends first for several prompts.

    Raises `InferenceError` for anything that is no chunk.
    """
    try:
        chunk: Json | None = _decoder.decode(data)
        if chunk is not None:
            msgspec.convert(chunk, _Chunk)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InferenceError("The model's engine sent something that is no event.") from exc
    return chunk


def merge_tool_call(calls: list[Json], piece: Json) -> None:
    """Put a piece of a call to those so far. The first one names it, later ones only add to its
    arguments.
    """
    index = piece.get("index")
    if index is None:
        index = len(calls)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = piece.get("id") or call["id"]
    call["type"] = piece.get("type") or call["type"]
    function = piece.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""
    if len(call["function"]["arguments"]) > MAX_ARGUMENTS:
        raise InferenceError("The model called a function with arguments beyond all bounds.")
