"""Shortens a chat that does not fit into its model's context: the oldest messages go first. Pure.

What stays: system and developer messages, and everything from the last user message on. A call of
tools and its results go together.
"""

from collections.abc import Sequence

import msgspec

from api_server.errors import ContextLengthError
from api_server.inference.catalogue import Model
from api_server.services.requests import Generation, Kind

TRIES = 6
"""How often a chat is shortened; the last time, by all that may go."""


class _Outline(msgspec.Struct):
    role: str
    tool_calls: list[msgspec.Raw] | None = None


def shorten(generation: Generation, model: Model, error: ContextLengthError, tries: int) -> int:
    """Drop so many of the oldest messages that the rest may fit; returns how many.

    Raises `error` where the model's entry does not ask for it, and when nothing more may go.
    """
    if model.context_overflow == "error" or generation.kind is not Kind.CHAT or tries > TRIES:
        raise error
    share = 0.0
    if error.prompt_tokens and error.context_tokens and tries < TRIES:
        share = share_that_fits(error.prompt_tokens, error.context_tokens, generation.max_tokens)
    messages = msgspec.json.decode(generation.fields["messages"], type=list[msgspec.Raw])
    kept = keep_newest(messages, share)
    if len(kept) == len(messages):
        raise error
    generation.fields["messages"] = msgspec.Raw(msgspec.json.encode(kept))
    return len(messages) - len(kept)


def keep_newest(messages: Sequence[msgspec.Raw], share: float) -> list[msgspec.Raw]:
    """Without the oldest messages, so that about `share` (0 to 1) of the bytes stays.

    At least one message goes, if one may. Bytes stand for tokens, which only the engine can count.
    """
    outlines = [msgspec.json.decode(message, type=_Outline) for message in messages]
    sizes = [len(bytes(message)) for message in messages]
    allowed = share * sum(sizes)
    left, gone = sum(sizes), set[int]()
    for group in _droppable_groups(outlines):
        if gone and left <= allowed:
            break
        gone.update(group)
        left -= sum(sizes[index] for index in group)
    return [message for index, message in enumerate(messages) if index not in gone]


def _droppable_groups(outlines: Sequence[_Outline]) -> list[list[int]]:
    """Indexes of what may go, oldest first; what belongs together is in one group."""
    users = [index for index, outline in enumerate(outlines) if outline.role == "user"]
    end = users[-1] if users else len(outlines) - 1
    groups: list[list[int]] = []
    is_open = False
    for index, outline in enumerate(outlines[:end]):
        if outline.role in ("system", "developer"):
            continue
        if outline.role in ("tool", "function") and is_open:
            groups[-1].append(index)
            continue
        groups.append([index])
        is_open = bool(outline.tool_calls)
    return groups


def share_that_fits(prompt_tokens: int, context_tokens: int, answer_tokens: int | None) -> float:
    """What share of a prompt may stay, so that there is room for an answer. Between 0 and 1.

    An answer is given what it may have at most, but no more than half of the context.
    """
    room = min(answer_tokens or context_tokens // 4, context_tokens // 2)
    return max(0.0, min(1.0, (context_tokens - room) / max(1, prompt_tokens)))
