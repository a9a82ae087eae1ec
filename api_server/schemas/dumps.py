"""The file that `import-assistants` takes: OpenAI's objects, as its API shows them.

What has no place here is left out by whoever reads it, which says so.
"""

from typing import Annotated, Any, Literal

import msgspec

from api_server.schemas.assistants import AnyAssistant, Id, Metadata, ToolResources
from api_server.schemas.threads import Attachment, Detail

Moment = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Seconds of the epoch, up to the year 9999."""


KeptId = Annotated[Id, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")]
"""One that can stand in a path."""

Purpose = Literal[
    "assistants",
    "assistants_output",
    "batch",
    "batch_output",
    "fine-tune",
    "fine-tune-results",
    "vision",
    "user_data",
    "evals",
]


class Dump(msgspec.Struct, frozen=True):
    """Each object is read by itself: one that is wrong spoils no other."""

    assistants: list[msgspec.Raw] = []
    threads: list[msgspec.Raw] = []
    files: list[msgspec.Raw] = []


class Named(msgspec.Struct, frozen=True):
    """For what can be said of an object that is wrong."""

    id: str = "without an id"


class DumpedAssistant(AnyAssistant, kw_only=True):
    id: KeptId
    created_at: Moment | None = None


class DumpedText(msgspec.Struct, frozen=True):
    value: str
    annotations: list[dict[str, Any]] = []


class DumpedTextPart(msgspec.Struct, tag_field="type", tag="text", frozen=True):
    text: DumpedText


class DumpedImage(msgspec.Struct, frozen=True):
    file_id: Id
    detail: Detail = "auto"


class DumpedImagePart(msgspec.Struct, tag_field="type", tag="image_file", frozen=True):
    image_file: DumpedImage


class DumpedUrl(msgspec.Struct, frozen=True):
    url: str
    detail: Detail = "auto"


class DumpedUrlPart(msgspec.Struct, tag_field="type", tag="image_url", frozen=True):
    image_url: DumpedUrl


class DumpedRefusal(msgspec.Struct, tag_field="type", tag="refusal", frozen=True):
    refusal: str


DumpedPart = DumpedTextPart | DumpedImagePart | DumpedUrlPart | DumpedRefusal


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: Literal["content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"]


class DumpedMessage(msgspec.Struct, frozen=True):
    id: KeptId
    role: Literal["user", "assistant"]
    content: list[DumpedPart]
    created_at: Moment | None = None
    status: Literal["in_progress", "incomplete", "completed"] | None = None
    incomplete_details: IncompleteDetails | None = None
    completed_at: Moment | None = None
    incomplete_at: Moment | None = None
    assistant_id: Id | None = None
    run_id: Id | None = None
    attachments: list[Attachment] | None = None
    metadata: Metadata | None = None


class DumpedThread(msgspec.Struct, frozen=True):
    """`user`: whose it is here, by the `sub` of that user's tokens; OpenAI has nothing like it."""

    id: KeptId
    created_at: Moment | None = None
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None
    messages: list[msgspec.Raw] = []


class DumpedFile(msgspec.Struct, frozen=True):
    """`path`: where its content is, from the folder of the dump."""

    id: KeptId
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    path: str
    purpose: Purpose = "assistants"
    created_at: Moment | None = None
