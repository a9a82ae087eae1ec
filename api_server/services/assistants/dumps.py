"""What can be kept of objects that were exported from OpenAI's API, and what cannot. Pure."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.assistants import (
    CodeInterpreter,
    FileSearchResources,
    KeptAssistant,
    ToolResources,
)
from api_server.schemas.dumps import (
    DumpedAssistant,
    DumpedImagePart,
    DumpedMessage,
    DumpedPart,
    DumpedThread,
    Moment,
)
from api_server.schemas.threads import Attachment, Searched
from api_server.services.assistants.objects import to_json
from api_server.services.assistants.rules import read_kept
from api_server.stores.threads import NewMessage, NewThread

_MESSAGE = msgspec.json.Decoder(DumpedMessage)

Say = Callable[[str], None]
"""Gets a sentence on what could not be taken."""


@dataclass(frozen=True)
class Here:
    """What there is: models, and of the app its files and vector stores.

    `model` takes the place of models that are not served.
    """

    models: Collection[str]
    files: Collection[str] = frozenset()
    vector_stores: Collection[str] = frozenset()
    model: str | None = None


@dataclass
class Wanted:
    """Ids that objects name; they are looked up before the objects are written."""

    files: set[str] = field(default_factory=set)
    vector_stores: set[str] = field(default_factory=set)


def assistant_body(dumped: DumpedAssistant, here: Here, say: Say) -> str:
    """What is kept of an assistant, as JSON."""
    fields: dict[str, Any] = {
        name: value
        for name in KeptAssistant.__struct_fields__
        if (value := getattr(dumped, name)) is not None
    }
    if dumped.model not in here.models:
        if here.model is not None:
            fields["model"] = here.model
        else:
            say(f"its model {dumped.model!r} is not served here: modify it, or give --model")
    tools = [tool for tool in dumped.tools or () if not isinstance(tool, CodeInterpreter)]
    if len(tools) < len(dumped.tools or ()):
        say("its tool code_interpreter was left out: no sandbox is configured")
    fields["tools"] = tools
    fields["tool_resources"] = _resources(dumped.tool_resources, here, say)
    return to_json(KeptAssistant(**fields))


def new_thread(dumped: DumpedThread, app_id: str, here: Here, say: Say) -> NewThread:
    """What is kept of a thread, without its messages."""
    return NewThread(
        id=dumped.id,
        app_id=app_id,
        user=dumped.user,
        tool_resources=to_json(_resources(dumped.tool_resources, here, say)),
        metadata=to_json(dumped.metadata or {}),
        created_at=moment(dumped.created_at),
    )


def read_messages(dumped: DumpedThread, say: Say) -> list[DumpedMessage]:
    """Those that can be read, the oldest first; those of one second stay as they stand."""
    found = []
    for number, raw in enumerate(dumped.messages):
        try:
            found.append(read_kept(bytes(raw), _MESSAGE))
        except InvalidRequestError as exc:
            say(f"message {number} was left out: {exc.message}")
    return sorted(found, key=lambda message: message.created_at or 0)


def new_message(
    dumped: DumpedMessage, thread_id: str, app_id: str, here: Here, say: Say
) -> NewMessage:
    """What is kept of a message. One that was being written when it was exported is incomplete."""

    def say_of(what: str) -> None:
        say(f"message {dumped.id}: {what}")

    parts: list[DumpedPart] = []
    for part in dumped.content:
        if isinstance(part, DumpedImagePart) and part.image_file.file_id not in here.files:
            say_of(f"an image was left out: there is no file {part.image_file.file_id!r}")
        else:
            parts.append(part)
    attachments = [
        each
        for attachment in dumped.attachments or ()
        if (each := _attachment(attachment, here, say_of)) is not None
    ]
    status = dumped.status or "completed"
    details = dumped.incomplete_details
    return NewMessage(
        id=dumped.id,
        thread_id=thread_id,
        app_id=app_id,
        role=dumped.role,
        content=to_json(parts),
        attachments=to_json(attachments) if attachments else None,
        metadata=to_json(dumped.metadata or {}),
        assistant_id=dumped.assistant_id,
        run_id=dumped.run_id,
        status="incomplete" if status == "in_progress" else status,
        created_at=moment(dumped.created_at),
        completed_at=moment(dumped.completed_at),
        incomplete_at=moment(dumped.incomplete_at),
        incomplete_details=None if details is None else to_json(details),
    )


def wanted_of(resources: ToolResources | None, messages: Collection[DumpedMessage]) -> Wanted:
    """What they name."""
    wanted = Wanted()
    if resources is not None and resources.file_search is not None:
        wanted.vector_stores.update(resources.file_search.vector_store_ids or ())
    for message in messages:
        wanted.files.update(each.file_id for each in message.attachments or ())
        images = (part for part in message.content if isinstance(part, DumpedImagePart))
        wanted.files.update(part.image_file.file_id for part in images)
    return wanted


def moment(seconds: Moment | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _resources(dumped: ToolResources | None, here: Here, say: Say) -> ToolResources:
    if dumped is None:
        return ToolResources()
    if (dumped.code_interpreter or {}).get("file_ids"):
        say("the files of its code_interpreter were left out: no sandbox is configured")
    search = dumped.file_search
    if search is None:
        return ToolResources()
    ids = search.vector_store_ids or []
    for each in ids:
        if each not in here.vector_stores:
            say(
                f"its vector store {each!r} is not here: make one of its files and name it in "
                "tool_resources"
            )
    kept = [each for each in ids if each in here.vector_stores]
    return ToolResources(file_search=FileSearchResources(vector_store_ids=kept))


def _attachment(dumped: Attachment, here: Here, say: Say) -> Attachment | None:
    if dumped.file_id not in here.files:
        say(f"an attachment was left out: there is no file {dumped.file_id!r}")
        return None
    tools = [tool for tool in dumped.tools if isinstance(tool, Searched)]
    if len(tools) < len(dumped.tools):
        say("code_interpreter was left out of an attachment: no sandbox is configured")
    return Attachment(dumped.file_id, list(tools))
