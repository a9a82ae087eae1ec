"""What is kept, as OpenAI's objects; bodies of messages, as what is kept. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from api_server.schemas.ids import new_id
from api_server.schemas.threads import MessageBody, TextPart
from api_server.stores.assistants import Assistant
from api_server.stores.threads import Message, NewMessage, Thread

Json = dict[str, Any]

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def assistant_object(row: Assistant) -> Json:
    """`AssistantObject` of the reference."""
    head = {"id": row.id, "object": "assistant", "created_at": seconds(row.created_at)}
    return head | _FIELDS.decode(row.body)


def thread_object(row: Thread) -> Json:
    """`ThreadObject` of the reference."""
    return {
        "id": row.id,
        "object": "thread",
        "created_at": seconds(row.created_at),
        "tool_resources": _raw(row.tool_resources, or_else="{}"),
        "metadata": _raw(row.metadata, or_else="{}"),
    }


def message_object(row: Message) -> Json:
    """`MessageObject` of the reference."""
    return {
        "id": row.id,
        "object": "thread.message",
        "created_at": seconds(row.created_at),
        "assistant_id": row.assistant_id,
        "thread_id": row.thread_id,
        "run_id": row.run_id,
        "status": row.status,
        "incomplete_details": _raw(row.incomplete_details, or_else="null"),
        "incomplete_at": seconds(row.incomplete_at),
        "completed_at": seconds(row.completed_at),
        "role": row.role,
        "content": _raw(row.content, or_else="[]"),
        "attachments": _raw(row.attachments, or_else="[]"),
        "metadata": _raw(row.metadata, or_else="{}"),
    }


def new_message(app_id: str, thread_id: str, body: MessageBody) -> NewMessage:
    """What is to be kept of a message that a client sends."""
    attachments = None
    if body.attachments:
        attachments = to_json(body.attachments)
    return NewMessage(
        id=new_id("msg"),
        thread_id=thread_id,
        app_id=app_id,
        role=body.role,
        content=to_json(_parts(body)),
        attachments=attachments,
        metadata=to_json(body.metadata or {}),
    )


def searched_files(bodies: Iterable[MessageBody]) -> list[str]:
    """The ids of files that are attached for the tool file_search, each once."""
    found = (
        each.file_id
        for body in bodies
        for each in body.attachments or ()
        if each.tools  # code_interpreter is refused: what is left is file_search
    )
    return list(dict.fromkeys(found))


def to_json(content: Any) -> str:
    return msgspec.json.encode(content).decode()


def seconds(moment: datetime | None) -> int | None:
    """Of the epoch."""
    return None if moment is None else int(moment.timestamp())


def _parts(body: MessageBody) -> list[Any]:
    if isinstance(body.content, str):
        return [_text(body.content)]
    return [_text(part.text) if isinstance(part, TextPart) else part for part in body.content]


def _text(text: str) -> Json:
    return {"type": "text", "text": {"value": text, "annotations": []}}


def _raw(text: str | None, *, or_else: str) -> msgspec.Raw:
    return msgspec.Raw((or_else if text is None else text).encode())
