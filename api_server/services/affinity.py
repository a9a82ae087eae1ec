"""What the requests of one conversation have in common, so that they can go to one engine. Pure."""

import msgspec

from api_server.services.requests import Generation, Kind

MAX_BYTES = 4096
"""More tells no more conversations apart that are worth it."""

TEXT_BYTES = 256
"""A prompt that is continued keeps so much of its beginning."""


class _Role(msgspec.Struct):
    role: str


_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_ROLE = msgspec.json.Decoder(_Role)


def prefix_of(generation: Generation) -> bytes:
    """A chat up to its first message of a user, the beginning of a text's prompt; or what the
    client itself says with `prompt_cache_key`.
    """
    chosen = generation.fields.get("prompt_cache_key")
    if chosen is not None:
        return bytes(chosen)[:MAX_BYTES]
    if generation.kind is not Kind.CHAT:
        return bytes(generation.fields["prompt"])[:TEXT_BYTES]
    prefix = bytearray()
    for message in _MESSAGES.decode(generation.fields["messages"]):
        prefix += memoryview(message)[: MAX_BYTES - len(prefix)]
        if len(prefix) >= MAX_BYTES or _ROLE.decode(message).role == "user":
            break
    return bytes(prefix)
