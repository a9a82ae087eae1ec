"""Shortens a chat that does not fit into its model: the oldest messages go first. Pure."""

import msgspec

from api_server.errors import ContextLengthError
from api_server.inference.shortening import keep_newest, share_that_fits
from api_server.services.requests import Generation


def shorten(generation: Generation, error: ContextLengthError, tries: int) -> int:
    """Drop so many of the oldest messages that the rest may fit; returns how many went."""
    return drop_oldest(generation, share_that_fits(error, generation.max_tokens, tries))


def drop_oldest(generation: Generation, share: float) -> int:
    """Drop the oldest messages of a chat as `keep_newest` does; returns how many went."""
    messages = msgspec.json.decode(generation.fields["messages"], type=list[msgspec.Raw])
    kept = keep_newest(messages, share)
    generation.fields["messages"] = msgspec.Raw(msgspec.json.encode(kept))
    return len(messages) - len(kept)
