"""How long a prompt is, in tokens, where nobody can count it: each model cuts text in its own way.

Pure, on JSON as it goes to an engine. 10 MB of it take about a tenth of a second.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

MESSAGE_TOKENS = 6
"""What a chat template puts around each message."""

_LOWER = bytes(range(ord("a"), ord("z") + 1))
_UPPER = _LOWER.upper()
_DIGITS = b"0123456789"
_BREAKS = b"\t\n\r"
_ASCII = bytes(range(128))
_MARKS = bytes(set(range(33, 127)) - set(_LOWER + _UPPER + _DIGITS))


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


def estimate_chat(messages: bytes, tools: bytes = b"") -> int:
    """Text, tool calls and tools of a chat; pictures and sounds count nothing."""
    texts = [_text(each) for each in msgspec.json.decode(messages, type=list[_Message])]
    around = MESSAGE_TOKENS * len(texts)
    return around + sum(estimate_tokens(text) for text in texts) + estimate_tokens(tools)


def estimate_prompt(prompt: bytes) -> tuple[int, bool]:
    """The longest of a text completion's prompts, and whether that is exact: token ids are."""
    given = msgspec.json.decode(prompt)
    is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    prompts: Sequence[str | list[int]] = [given] if is_one else given
    counts = [
        (estimate_tokens(each.encode()), False) if isinstance(each, str) else (len(each), True)
        for each in prompts
    ]
    return max(counts)


def estimate_tokens(text: bytes) -> int:
    """About how many tokens a UTF-8 text has; rather too many than too few.

    Measured beside two real tokenizers. Mistral 7B's (32,000 pieces): 0.9 to 1.5 times its count
    for prose in English, German, French, Chinese, Japanese, Korean, Arabic, Hindi, for code, JSON
    and logs; 2.3 for Russian; 0.8 for bare numbers and capitals; 0.65 for Turkish and for random
    letters such as base64. One with 131,000 pieces: 0.9 to 1.5 times for European languages and
    code, but 2 to 4 times for scripts that it knows better, and half for emoji.
    """

    def count(kind: bytes) -> int:
        return len(text) - len(text.translate(None, kind))

    return round(
        0.28 * count(_LOWER)
        + 0.5 * count(_UPPER)
        + count(_DIGITS)
        + 0.75 * count(_MARKS)
        + count(_BREAKS)
        + 0.2 * text.count(b"  ")
        + 0.5 * len(text.translate(None, _ASCII))
    )


def _text(message: _Message) -> bytes:
    content = message.content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    joined = "".join(text for text in texts if isinstance(text, str))
    return joined.encode() + bytes(message.tool_calls)
