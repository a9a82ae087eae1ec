"""Finds the events in a stream of server-sent events, whatever the boundaries of its blocks."""

MOST_EVENT_BYTES = 8 * 1024 * 1024


class EventError(Exception):
    """A line of the stream has no end."""


class EventReader:
    """Give it the body as it comes. Comments, and fields other than `data`, are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def is_between(self) -> bool:
        """Whether nothing of an unfinished event is held."""
        return not self._rest and not self._data

    def feed(self, block: bytes) -> list[bytes]:
        """The data of each event that this block completes."""
        lines = (self._rest + block if self._rest else block).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MOST_EVENT_BYTES:
            raise EventError("a line without an end")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                begin = 6 if line[5:6] == b" " else 5
                self._data.append(line[begin:-1] if line.endswith(b"\r") else line[begin:])
            elif line in (b"", b"\r") and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        return events
