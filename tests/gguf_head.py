"""Writes the head of a GGUF file by hand, so that tests can have models of any size and fault."""

import struct
from typing import Any


def gguf_head(values: dict[str, Any], *, has_tensor: bool = False) -> bytes:
    """The head with these keys (text, lists of text, unsigned numbers) and one tensor or none."""
    head = b"GGUF" + struct.pack("<IQQ", 3, int(has_tensor), len(values))
    for key, value in values.items():
        head += _text(key)
        if isinstance(value, str):
            head += struct.pack("<I", 8) + _text(value)
        elif isinstance(value, list):
            head += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(item) for item in value)
        else:
            head += struct.pack("<II", 4, value)
    return head + (_text("t") + struct.pack("<IQIQ", 1, 8, 0, 0) if has_tensor else b"")


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
