"""What the requests of one conversation have in common, so that they can go to one engine. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

MAX_BYTES = 8192
"""More tells no more conversations apart that are worth it."""

END_BYTES = 1024
"""Of a longer message its two ends and its length stand for it: what differs may come late."""

TEXT_BYTES = 256
"""A prompt that is continued keeps so much of its beginning."""


class _Role(msgspec.Struct):
    role: Any = ""  # checked by the engine


_ROLE = msgspec.json.Decoder(_Role)


def chat_prefix(messages: Iterable[msgspec.Raw]) -> bytes:
    """A chat up to its first message of a user."""
    prefix = bytearray()
    for message in messages:
        raw = memoryview(message)
        if len(raw) > 2 * END_BYTES:
            prefix += b"%d" % len(raw) + raw[:END_BYTES]
            raw = raw[-END_BYTES:]
        prefix += raw
        if len(prefix) >= MAX_BYTES or _ROLE.decode(message).role == "user":
            break
    return bytes(prefix[:MAX_BYTES])


def text_prefix(prompt: msgspec.Raw) -> bytes:
    """The beginning of a prompt, as JSON."""
    return bytes(prompt)[:TEXT_BYTES]
