"""What assistants are made of: tools, resources, formats; the bodies of `/v1/assistants`.

As in the reference, a body with a field that it does not have is refused; inside of tools,
resources and formats such a field is ignored, and left out of what is kept.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from api_server.schemas.chunks import Chunking

MOST_TOOLS = 128

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Description = Annotated[str, msgspec.Meta(max_length=512)]
Instructions = Annotated[str, msgspec.Meta(max_length=256_000)]
Model = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(ge=0, le=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]

MetadataKey = Annotated[str, msgspec.Meta(max_length=64)]
MetadataValue = Annotated[str, msgspec.Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], msgspec.Meta(max_length=16)]


class CodeInterpreter(msgspec.Struct, tag_field="type", tag="code_interpreter", frozen=True):
    """Read, so that it can be refused with a sentence of its own."""


class RankingOptions(msgspec.Struct, omit_defaults=True, frozen=True):
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)]
    ranker: Literal["auto", "default_2024_08_21"] | None = None


class FileSearchOptions(msgspec.Struct, omit_defaults=True, frozen=True):
    max_num_results: Annotated[int, msgspec.Meta(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None


class FileSearch(
    msgspec.Struct, tag_field="type", tag="file_search", omit_defaults=True, frozen=True
):
    file_search: FileSearchOptions | None = None


class FunctionShape(msgspec.Struct, omit_defaults=True, frozen=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Function(msgspec.Struct, tag_field="type", tag="function", frozen=True):
    function: FunctionShape


Tool = CodeInterpreter | FileSearch | Function
Tools = Annotated[list[Tool], msgspec.Meta(max_length=MOST_TOOLS)]


class TextFormat(msgspec.Struct, tag_field="type", tag="text", frozen=True):
    pass


class JsonObjectFormat(msgspec.Struct, tag_field="type", tag="json_object", frozen=True):
    pass


class JsonSchema(msgspec.Struct, omit_defaults=True, frozen=True):
    name: FunctionName
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema", frozen=True):
    json_schema: JsonSchema


ResponseFormat = Literal["auto"] | TextFormat | JsonObjectFormat | JsonSchemaFormat


class InlineStore(msgspec.Struct, omit_defaults=True, frozen=True):
    """A vector store to be made on the way."""

    file_ids: list[Id] = []
    chunking_strategy: Chunking | None = None
    metadata: Metadata | None = None


class FileSearchResources(msgspec.Struct, omit_defaults=True, frozen=True):
    vector_store_ids: Annotated[list[Id], msgspec.Meta(max_length=1)] | None = None
    vector_stores: Annotated[list[InlineStore], msgspec.Meta(max_length=1)] | None = None


class ToolResources(msgspec.Struct, omit_defaults=True, frozen=True):
    code_interpreter: dict[str, Any] | None = None
    file_search: FileSearchResources | None = None


class AnyAssistant(msgspec.Struct, kw_only=True):
    """What an assistant may be told to be, here and in a dump."""

    model: Model
    name: Name | None = None
    description: Description | None = None
    instructions: Instructions | None = None
    tools: Tools | None = None
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None


class NewAssistant(AnyAssistant, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/assistants`."""


class AssistantChange(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/assistants/{assistant_id}`: what is not sent stays as it is."""

    model: Model | UnsetType = UNSET
    name: Name | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    instructions: Instructions | UnsetType | None = UNSET
    tools: Tools | UnsetType | None = UNSET
    tool_resources: ToolResources | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    response_format: ResponseFormat | UnsetType | None = UNSET
    reasoning_effort: Effort | UnsetType | None = UNSET


class KeptAssistant(msgspec.Struct, frozen=True):
    """What is kept of an assistant, with OpenAI's defaults."""

    model: str
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    tools: list[Tool] = []
    tool_resources: ToolResources = ToolResources()
    metadata: dict[str, str] = {}
    temperature: float = 1.0
    top_p: float = 1.0
    response_format: ResponseFormat = "auto"
    reasoning_effort: Effort | None = None
