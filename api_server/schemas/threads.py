"""The bodies of `/v1/threads` and of their messages: fields that they do not have are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from api_server.schemas.assistants import (
    CodeInterpreter,
    Id,
    Metadata,
    ToolResources,
)

Text = Annotated[str, msgspec.Meta(max_length=256_000)]
Detail = Literal["auto", "low", "high"]


class TextPart(msgspec.Struct, tag_field="type", tag="text", frozen=True):
    text: Text


class ImageFile(msgspec.Struct, frozen=True):
    file_id: Id
    detail: Detail = "auto"


class ImageFilePart(msgspec.Struct, tag_field="type", tag="image_file", frozen=True):
    image_file: ImageFile


class ImageUrl(msgspec.Struct, frozen=True):
    url: Annotated[str, msgspec.Meta(pattern="^(https?://.|data:image/)")]
    detail: Detail = "auto"


class ImageUrlPart(msgspec.Struct, tag_field="type", tag="image_url", frozen=True):
    image_url: ImageUrl


Part = TextPart | ImageFilePart | ImageUrlPart
Parts = Annotated[list[Part], msgspec.Meta(min_length=1)]


class Searched(msgspec.Struct, tag_field="type", tag="file_search", frozen=True):
    """The file is to be found by the tool file_search."""


class Attachment(msgspec.Struct, frozen=True):
    file_id: Id
    tools: list[CodeInterpreter | Searched] = []


class MessageBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/threads/{thread_id}/messages`, and wherever else messages come in."""

    role: Literal["user", "assistant"]
    content: Text | Parts
    attachments: list[Attachment] | None = None
    metadata: Metadata | None = None


class ThreadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/threads`, and the `thread` of `POST /v1/threads/runs`."""

    messages: list[MessageBody] | None = None
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None


class ThreadChange(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/threads/{thread_id}`: what is not sent stays as it is."""

    tool_resources: ToolResources | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET


class MessageChange(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/threads/{thread_id}/messages/{message_id}`."""

    metadata: Metadata | UnsetType | None = UNSET
