"""The body of `POST /api/messages/process`: the Entities guide's, in either way of writing."""

from typing import Any

import msgspec


class ProcessBody(msgspec.Struct, kw_only=True):
    """Each name may be written in camelCase or with underscores; the first wins."""

    messages: Any = None
    user: str | int | None = msgspec.field(default=None, name="userId")
    user_id: str | int | None = None
    thread: str | None = msgspec.field(default=None, name="threadId")
    thread_id: str | None = None
    assistant: str | None = msgspec.field(default=None, name="assistantId")
    assistant_id: str | None = None
    model: str | None = None
    location: str | None = msgspec.field(default=None, name="inferenceType")
    inference_type: str | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What a body says. `user`, `thread_id`, `assistant_id` and `model` None: not said."""

    content: str
    location: str
    user: str | None = None
    thread_id: str | None = None
    assistant_id: str | None = None
    model: str | None = None
