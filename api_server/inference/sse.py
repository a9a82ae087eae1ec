"""Server-sent events as bytes: cut a byte stream into whole events, whatever its chunks. Pure."""

from collections.abc import Iterator

MAX_EVENT_BYTES = 8 * 1024 * 1024
DONE = b"[DONE]"


class EventTooLargeError(Exception):
    """One event grew beyond `MAX_EVENT_BYTES`."""


class EventBuffer:
    """Feed it bytes as they arrive; it returns blocks of whole events, each ended by a blank line.

    Line ends may be LF or CRLF; blocks come out with LF.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """All events that are whole now, as one block; `b""` when there is none yet."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n") + held
        end = data.rfind(b"\n\n")
        if end < 0:
            block, self._rest = b"", data
        else:
            block, self._rest = data[: end + 2], data[end + 2 :]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        return block


def split_events(block: bytes) -> list[bytes]:
    """The events of a block, without their blank lines."""
    return [event for event in block.split(b"\n\n") if event]


def data_of(event: bytes) -> bytes | None:
    """The `data` of one event (several lines joined), None for a comment or an event without."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def payloads(block: bytes) -> Iterator[bytes]:
    """The `data` of every event of a block, comments left out."""
    for event in split_events(block):
        data = data_of(event)
        if data is not None:
            yield data
