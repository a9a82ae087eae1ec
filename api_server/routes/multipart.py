"""Reads `multipart/form-data` as it comes; nothing of a file is held."""

import asyncio
import time
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from api_server.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientLeftError,
    InvalidRequestError,
)
from api_server.observability.record import record_of
from api_server.services.files.forms import Begin, Event, Field

MOST_PARTS = 64
MOST_FIELD_BYTES = 64 * 1024
AROUND_BYTES = MOST_PARTS * MOST_FIELD_BYTES
"""What a form may have beside its file."""


async def form_events(
    scope: Scope, receive: Receive, *, most_bytes: int, stall_seconds: float
) -> AsyncIterator[Event]:
    """The parts of the request's form. A file may have `most_bytes`; what is announced to be longer
    is not read.

    Raises `InvalidRequestError`, `BodyTooLargeError`, `BodyTimeoutError` where nothing comes for so
    long, and `ClientLeftError`.
    """
    headers = dict(scope["headers"])
    parts = _Parts(headers.get(b"content-type", b""))
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced[:18]) > most_bytes + AROUND_BYTES:
        raise BodyTooLargeError(f"A file here has at most {most_bytes} bytes.")
    began = time.perf_counter()
    try:
        while not parts.has_ended:
            try:
                async with asyncio.timeout(stall_seconds):
                    message = await receive()
            except TimeoutError as exc:
                raise BodyTimeoutError(
                    f"Nothing of the body came for {stall_seconds:g} s."
                ) from exc
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            for event in parts.feed(message.get("body", b"")):
                yield event
            if not message.get("more_body", False) and not parts.has_ended:
                raise InvalidRequestError("The form has no end: its last boundary is missing.")
    finally:
        record_of(scope).upload_ms = round((time.perf_counter() - began) * 1000, 3)


class _Parts:
    """The parser calls back; what it told is handed on after each chunk."""

    def __init__(self, content_type: bytes) -> None:
        kind, options = parse_options_header(content_type.decode("latin-1"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequestError(
                "The body must be a form: content-type: multipart/form-data; boundary=..."
            )
        self.has_ended = False
        self._told: list[Event] = []
        self._headers: dict[str, bytes] = {}
        self._header = self._value = b""
        self._field: str | None = None
        self._field_bytes = bytearray()
        self._count = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_header,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_content,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise InvalidRequestError(f"content-type: {exc}.") from exc

    def feed(self, chunk: bytes) -> list[Event]:
        """What this chunk brings. Raises `InvalidRequestError`."""
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise InvalidRequestError("The body is no well-formed form.") from exc
        told, self._told = self._told, []
        return told

    def _begin_part(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise InvalidRequestError(f"A form here has at most {MOST_PARTS} parts.")
        self._headers = {}
        self._field = None
        self._field_bytes = bytearray()

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def _end_headers(self) -> None:
        disposition = self._headers.get("content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        name = _text(options.get(b"name", b""))
        content_type = self._headers.get("content-type")
        if b"filename" not in options:
            self._field = name
            return
        told = content_type.decode("latin-1") if content_type is not None else None
        self._told.append(Begin(name, _text(options[b"filename"]), told))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._told.append(data[start:end])
            return
        self._field_bytes += data[start:end]
        if len(self._field_bytes) > MOST_FIELD_BYTES:
            raise InvalidRequestError(
                f"{self._field[:100]}: is longer than {MOST_FIELD_BYTES} bytes; a file needs a "
                "filename."
            )

    def _end_part(self) -> None:
        if self._field is not None:
            self._told.append(Field(self._field, _text(bytes(self._field_bytes))))

    def _end(self) -> None:
        self.has_ended = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
