"""Reads a client's body: checks it, and notes what the gateway needs to know of it. Pure."""

import re
from enum import Enum
from typing import Any, TypeVar

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.completions import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    NamedTool,
)
from api_server.schemas.embeddings import MAX_INPUTS, EmbeddingsRequest

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

_JSON_PATH = re.compile(r"^(?P<what>.*?) - at `\$\.?(?P<path>.*)`$", re.DOTALL)


class Kind(Enum):
    """The routes whose answers come from an engine; the value is its path, and ours."""

    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"


class Generation(msgspec.Struct):
    """A checked request for text: what the gateway needs to know, and all fields as they came.

    `max_tokens` is what the client asks for, `most_tokens` what its app may ask for at most.
    `top_logprobs` is None where no log probabilities are wanted; `named_tool` is the one function
    that `tool_choice` demands, `calls_no_tools` whether it forbids them.
    """

    kind: Kind
    model: str
    fields: Fields
    is_stream: bool = False
    wants_usage: bool = False
    choices_per_prompt: int = 1
    prompts: int = 1
    max_tokens: int | None = None
    most_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    named_tool: str | None = None
    calls_no_tools: bool = False


class EmbeddingJob(msgspec.Struct):
    """A checked request for embeddings."""

    model: str
    fields: Fields
    inputs: int
    dimensions: int | None


_ANY_FIELDS = msgspec.json.Decoder(Fields)
_CHAT = msgspec.json.Decoder(ChatRequest)
_TEXT = msgspec.json.Decoder(CompletionRequest)
_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsRequest)


def parse_chat(body: bytes) -> Generation:
    """Check the body of a chat. Raises `InvalidRequestError` that names the field."""
    request, generation = _generation(Kind.CHAT, body, _CHAT)
    tools = request.tools or ()
    if request.tool_choice is not None:
        generation.named_tool = _named_tool(request)
        generation.calls_no_tools = request.tool_choice == "none"
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is None:
        raise InvalidRequestError(
            "response_format of type json_schema needs json_schema.",
            param="response_format.json_schema",
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs: true.", param="top_logprobs")
    if request.logprobs:
        generation.top_logprobs = request.top_logprobs or 0
        if tools:
            raise InvalidRequestError(
                "logprobs together with tools is not supported here.", param="logprobs"
            )
    return generation


def parse_text(body: bytes) -> Generation:
    """Check the body of a text completion. Raises `InvalidRequestError` that names the field."""
    request, generation = _generation(Kind.TEXT, body, _TEXT)
    generation.prompts = _count_prompts("prompt", request.prompt)
    generation.top_logprobs = request.logprobs
    return generation


def parse_embeddings(body: bytes) -> EmbeddingJob:
    """Check the body of a request for embeddings; at most `MAX_INPUTS` inputs, none empty."""
    fields, request = _decode(body, _EMBEDDINGS)
    inputs = _count_prompts("input", request.input)
    if inputs > MAX_INPUTS:
        raise InvalidRequestError(
            f"input holds {inputs} items; {MAX_INPUTS} are allowed in one request.", param="input"
        )
    return EmbeddingJob(
        model=request.model,
        fields=fields,
        inputs=inputs,
        dimensions=request.dimensions,
    )


G = TypeVar("G", bound=GenerationRequest)


def _generation(kind: Kind, body: bytes, decoder: msgspec.json.Decoder[G]) -> tuple[G, Generation]:
    fields, request = _decode(body, decoder)
    options = request.stream_options
    if options is not None and not request.stream:
        raise InvalidRequestError(
            "stream_options is only allowed together with stream: true.", param="stream_options"
        )
    if options is not None and options.include_obfuscation:
        raise InvalidRequestError(
            "stream_options.include_obfuscation is not supported here; leave it out.",
            param="stream_options.include_obfuscation",
        )
    generation = Generation(
        kind=kind,
        model=request.model,
        fields=fields,
        is_stream=bool(request.stream),
        wants_usage=bool(options and options.include_usage),
        choices_per_prompt=request.n or 1,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        seed=request.seed,
    )
    return request, generation


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> tuple[Fields, T]:
    """All fields as they came, without those that are null, and the typed ones, checked."""
    try:
        if not body.isascii():
            body.decode()
        fields = _ANY_FIELDS.decode(body)
        request = decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _field_error(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"The request body is not valid JSON: {exc}.") from exc
    except RecursionError as exc:
        raise InvalidRequestError("The request body is nested too deeply.") from exc
    return {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}, request


def _named_tool(request: ChatRequest) -> str | None:
    choice, tools = request.tool_choice, request.tools or ()
    if choice == "required" and not tools:
        raise InvalidRequestError("tool_choice 'required' needs tools.", param="tool_choice")
    if not isinstance(choice, NamedTool):
        return None
    known = [tool.function.name for tool in tools]
    if choice.function.name not in known:
        raise InvalidRequestError(
            f"tool_choice names a function that is not among the tools ({', '.join(known)[:200]}).",
            param="tool_choice",
        )
    return choice.function.name


def _count_prompts(name: str, value: str | list[Any]) -> int:
    """A text or a list of tokens is one; a list of texts or of token lists is several."""
    wrong = InvalidRequestError(
        f"{name} must be a text, a list of texts, a list of token ids, or a list of such lists; "
        "none of them may be empty.",
        param=name,
    )
    if isinstance(value, str):
        if not value and name == "input":
            raise wrong
        return 1
    if not value:
        raise wrong
    if all(type(item) is int for item in value):
        return 1
    for item in value:
        is_tokens = isinstance(item, list) and item and all(type(token) is int for token in item)
        is_text = isinstance(item, str) and (item or name == "prompt")
        if not is_tokens and not is_text:
            raise wrong
    return len(value)


def _field_error(reason: str) -> InvalidRequestError:
    """msgspec says "Expected `int`, got `str` - at `$.seed`"; clients want the field first."""
    missing = re.match(r"Object missing required field `(\w+)`", reason)
    match = _JSON_PATH.match(reason)
    what = (match["what"] if match else reason).replace("`", "'")
    path = match["path"] if match else ""
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return InvalidRequestError(f"{path} is required.", param=path)
    if not path:
        return InvalidRequestError("The request body must be a JSON object.")
    return InvalidRequestError(f"{path}: {what[:1].lower()}{what[1:]}.", param=path)
