"""Which messages of a chat may go, oldest first, when it does not fit into its model. Pure.

What stays: system and developer messages, the last user message, and the last message with what
belongs to it. A call of tools and its results go together.
"""

from collections.abc import Sequence

import msgspec

from api_server.errors import ContextLengthError

_RESULTS = ("tool", "function")

TRIES = 6
"""How often a chat is shortened by an estimate; the last time, by all that may go."""


class _Outline(msgspec.Struct):
    role: str
    tool_calls: list[msgspec.Raw] | None = None


def share_that_fits(error: ContextLengthError, max_tokens: int | None, tries: int) -> float:
    """Which part of a chat to keep, 0 to 1, by what its engine said; in the last try nothing."""
    if not (error.prompt_tokens and error.context_tokens and tries < TRIES):
        return 0.0
    room = error.context_tokens - answer_room(error.context_tokens, max_tokens)
    return min(1.0, room / error.prompt_tokens)


def answer_room(context_tokens: int, max_tokens: int | None) -> int:
    """What is left free for an answer: what it may have at most, but no more than half."""
    return min(max_tokens or context_tokens // 4, context_tokens // 2)


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
    last_user = max((i for i, each in enumerate(outlines) if each.role == "user"), default=-1)
    groups: list[list[int]] = []
    is_open = False
    for index, outline in enumerate(outlines):
        if outline.role in ("system", "developer"):
            continue
        if outline.role in _RESULTS and is_open:
            groups[-1].append(index)
            continue
        groups.append([index])
        is_open = bool(outline.tool_calls)
    return [group for group in groups[:-1] if last_user not in group]
