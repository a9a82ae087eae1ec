"""The bodies of `/v1/threads/.../runs`: fields that they do not have are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api_server.schemas.assistants import (
    Effort,
    FunctionName,
    Id,
    Instructions,
    Metadata,
    Model,
    ResponseFormat,
    Temperature,
    Tool,
    ToolResources,
    Tools,
    TopP,
)
from api_server.schemas.threads import MessageBody, ThreadBody

MostTokens = Annotated[int, Meta(ge=256, le=2**31 - 1)]


class Truncation(msgspec.Struct, frozen=True):
    """`truncation_strategy`."""

    type: Literal["auto", "last_messages"]
    last_messages: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class ChosenFunctionName(msgspec.Struct, frozen=True):
    name: FunctionName


class ChosenFunction(msgspec.Struct, tag_field="type", tag="function", frozen=True):
    function: ChosenFunctionName


class ChosenSearch(msgspec.Struct, tag_field="type", tag="file_search", frozen=True):
    pass


class ChosenCode(msgspec.Struct, tag_field="type", tag="code_interpreter", frozen=True):
    """Read, so that it can be refused with a sentence of its own."""


ToolChoice = Literal["none", "auto", "required"] | ChosenFunction | ChosenSearch | ChosenCode


class AnyRunBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every run can be asked for; what is not sent is the assistant's."""

    assistant_id: Id
    model: Model | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    max_prompt_tokens: MostTokens | None = None
    max_completion_tokens: MostTokens | None = None
    truncation_strategy: Truncation | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None


class RunBody(AnyRunBody, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/threads/{thread_id}/runs`."""

    additional_instructions: Instructions | None = None
    additional_messages: list[MessageBody] | None = None


class ThreadAndRunBody(AnyRunBody, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/threads/runs`."""

    thread: ThreadBody | None = None
    tool_resources: ToolResources | None = None


class RunChange(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/threads/{thread_id}/runs/{run_id}`."""

    metadata: Metadata | UnsetType | None = UNSET


class ToolOutput(msgspec.Struct, frozen=True):
    tool_call_id: str = ""
    output: Annotated[str, Meta(max_length=1_000_000)] = ""


class ToolOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """`POST .../submit_tool_outputs`."""

    tool_outputs: Annotated[list[ToolOutput], Meta(max_length=1024)]
    stream: bool | None = None


class Wish(msgspec.Struct, frozen=True):
    """What is kept of what a run was asked for, with OpenAI's defaults; its object shows it."""

    model: str
    instructions: str = ""
    tools: list[Tool] = []
    temperature: float = 1.0
    top_p: float = 1.0
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncation_strategy: Truncation = Truncation("auto")
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = "auto"
    reasoning_effort: Effort | None = None
    tool_resources: ToolResources = ToolResources()
