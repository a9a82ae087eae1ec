"""Reads HTTP/1.1 responses from bytes, as they come. Pure: whoever uses it owns the connection."""

from collections.abc import Mapping

MOST_HEAD_BYTES = 64 * 1024
MOST_DIGITS = 18

_BEGINS = b"HTTP/1."


class HttpError(Exception):
    """What came is no HTTP response, or only a part of one."""


class ResponseReader:
    """One response. `status` is 0 until its head is there; then `headers` has lower-case names."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.is_complete = False
        self._buffer = b""
        self._left: int | None = None
        """Bytes that are still to come: of the body, or of a chunk; None: no length is known."""
        self._is_old = False
        self._is_chunked = False
        self._ends_chunk = False
        self._in_trailers = False

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may be used again once this response is complete."""
        has_end = self._is_chunked or self._left is not None
        said = self.headers.get("connection", "").lower()
        return has_end and (said == "keep-alive" if self._is_old else said != "close")

    def feed(self, data: bytes) -> bytes:
        """The part of the body in these bytes. Raises `HttpError`."""
        self._buffer = self._buffer + data if self._buffer else data
        while not self.status:
            if not self._read_head():
                return b""
        if self._is_chunked:
            return self._read_chunks()
        body, self._buffer = self._buffer, b""
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise HttpError("more than the announced length")
            self.is_complete = self._left == 0
        return body

    def end(self) -> None:
        """The connection was closed. Raises `HttpError` when that was too early."""
        if not self.status or self._is_chunked or self._left is not None:
            raise HttpError("the connection ended within a response")
        self.is_complete = True

    def _read_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if not head[: len(_BEGINS)].startswith(_BEGINS[: len(head)]):
                raise HttpError("no HTTP")
            if len(self._buffer) > MOST_HEAD_BYTES:
                raise HttpError("a head without an end")
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, answer = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not answer[:3].isdecimal():
            raise HttpError("no HTTP")
        self._buffer, self._is_old = rest, version == "HTTP/1.0"
        status = int(answer[:3])
        if status < 200:  # an announcement: the response itself follows
            return bool(rest)
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.status = status
        self._is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._is_chunked and (length := self.headers.get("content-length")) is not None:
            if not length.isdecimal() or len(length) > MOST_DIGITS:
                raise HttpError("a length that is no number")
            self._left = int(length)
        elif status in (204, 304):
            self._left = 0
        return True

    def _read_chunks(self) -> bytes:
        pieces = []
        buffer, at = self._buffer, 0
        while not self.is_complete:
            if self._left:
                piece = buffer[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._ends_chunk = self._left == 0
                continue
            end = buffer.find(b"\r\n", at)
            if end < 0:
                if len(buffer) - at > MOST_HEAD_BYTES:
                    raise HttpError("a chunk without a size")
                break
            self._read_line(buffer[at:end])
            at = end + 2
        self._buffer = buffer[at:]
        if self.is_complete and self._buffer:
            raise HttpError("more than one response")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self, line: bytes) -> None:
        """A line between chunks: the end of one, the size of the next, or a trailer."""
        if self._in_trailers:
            self.is_complete = not line
        elif self._ends_chunk:
            if line:
                raise HttpError("a chunk longer than its size")
            self._ends_chunk = False
        else:
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError as exc:
                raise HttpError("a chunk's size that is no number") from exc
            if self._left < 0:
                raise HttpError("a chunk's size that is no number")
            self._in_trailers = self._left == 0
