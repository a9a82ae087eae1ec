"""What a chat or completion request must look like before an engine sees it.

Checked by msgspec in one pass over the bytes; pydantic costs a multiple (docs/decisions/0002).
Only what OpenAI's reference types is typed here; everything else is passed on untouched.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenLimit = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class StreamOptions(msgspec.Struct):
    """`stream_options`; only valid with `stream: true`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CalledFunction(msgspec.Struct):
    """What the model called; `arguments` is JSON in a string."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    """A call in an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"


class Part(msgspec.Struct):
    """A part of a message's content; those that are no text are the engine's to judge."""

    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """One message of a chat; content may be text or a list of parts."""

    role: Role
    name: str | None = None
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """An entry of `tools`; functions are all that engines know."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct):
    """The function that `tool_choice` demands."""

    name: str


class NamedTool(msgspec.Struct):
    """`tool_choice` as an object."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(msgspec.Struct):
    """The schema that an answer must follow; it is the engine's to check."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationRequest(msgspec.Struct, kw_only=True):
    """The fields that chat and text completions share."""

    model: Annotated[str, Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=64)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    user: str | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(GenerationRequest, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
