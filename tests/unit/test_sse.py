"""Events come out whole, whatever the chunks they arrived in."""

import random

import pytest

from api_server.inference.sse import (
    MAX_EVENT_BYTES,
    EventBuffer,
    EventTooLargeError,
    data_of,
    payloads,
    split_events,
)

STREAM = 'data: {"a": "ü"}\n\n: ping\n\nevent: x\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'.encode()


def fed(stream: bytes, sizes: list[int]) -> bytes:
    buffer, out, rest = EventBuffer(), b"", stream
    for size in sizes:
        block = buffer.feed(rest[:size])
        assert block == b"" or block.endswith(b"\n\n")
        out += block
        rest = rest[size:]
    out += buffer.feed(rest)
    return out


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_any_chunking_gives_the_same_events(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    random_ = random.Random(1)
    assert fed(stream, [1] * len(stream)) == STREAM
    for _ in range(200):
        sizes = [random_.randint(1, 9) for _ in range(20)]
        assert fed(stream, sizes) == STREAM


def test_comments_carry_no_data() -> None:
    assert list(payloads(STREAM)) == ['{"a": "ü"}'.encode(), b"1\n2", b"[DONE]"]
    assert data_of(b": ping") is None
    assert split_events(b"") == []


def test_half_an_event_is_held_back() -> None:
    buffer = EventBuffer()
    assert buffer.feed(b"data: {") == b""
    assert buffer.feed(b"}\n\ndata: ") == b"data: {}\n\n"


def test_an_event_without_end_is_refused() -> None:
    buffer = EventBuffer()
    with pytest.raises(EventTooLargeError):
        buffer.feed(b"data: " + b"x" * (MAX_EVENT_BYTES + 1))
