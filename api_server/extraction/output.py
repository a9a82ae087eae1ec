"""Text on its way out: cleaned and bounded."""

from typing import Protocol

from api_server.errors import UnreadableFileError


class Sink(Protocol):
    """A binary file."""

    def write(self, data: bytes, /) -> int:
        """Write bytes."""

    def flush(self) -> None:
        """Hand on what was written."""


class Output:
    """Writes UTF-8; lines end with a line feed, NULs are blanks, lone surrogates question marks."""

    def __init__(self, sink: Sink, most_bytes: int) -> None:
        self._sink = sink
        self._most_bytes = most_bytes
        self._written = 0
        self._has_text = False

    def write(self, part: str) -> None:
        """A part that does not end within a line end. Raises `UnreadableFileError` beyond the
        bound."""
        clean = part.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")
        data = clean.encode("utf-8", "replace")
        self._written += len(data)
        if self._written > self._most_bytes:
            raise too_long(self._most_bytes)
        self._has_text = self._has_text or not clean.isspace()
        self._sink.write(data)

    def end(self) -> None:
        """Raises `UnreadableFileError` where there was nothing to read."""
        if not self._written or not self._has_text:
            raise UnreadableFileError("invalid_file", "The file has no text.")
        self._sink.flush()


def too_long(most_bytes: int) -> UnreadableFileError:
    """What is said of a file with more text than may be."""
    return UnreadableFileError(
        "invalid_file",
        f"The file has more text than the {most_bytes} bytes it may have "
        "(retrieval.max_text_bytes).",
    )
