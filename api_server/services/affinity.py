"""What the requests of one conversation have in common, so that they can go to one engine. Pure."""

import msgspec

from api_server.inference.affinity import MAX_BYTES, chat_prefix, text_prefix
from api_server.services.requests import Generation, Kind

_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])


def prefix_of(generation: Generation) -> bytes:
    """A chat up to its first message of a user, the beginning of a text's prompt; or what the
    client itself says with `prompt_cache_key`.
    """
    chosen = generation.fields.get("prompt_cache_key")
    if chosen is not None:
        return bytes(chosen)[:MAX_BYTES]
    if generation.kind is not Kind.CHAT:
        return text_prefix(generation.fields["prompt"])
    return chat_prefix(_MESSAGES.decode(generation.fields["messages"]))
