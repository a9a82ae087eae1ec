"""The events of one generation, as an engine sends them over one connection."""

import logging
from typing import Any, Protocol

import msgspec

from api_server.errors import (
    ApiError,
    EngineTimeoutError,
    InferenceError,
    TruncatedAnswerError,
)
from api_server.inference import sse
from api_server.inference.handlers.faults import translate_error
from api_server.inference.handlers.http1 import (
    Connection,
    EngineConnectionError,
    EngineSilenceError,
    Pool,
)

log = logging.getLogger(__name__)


class OnEnd(Protocol):
    """Told once, when a stream is closed: did it come to its end, and what error broke it?"""

    def __call__(self, *, is_whole: bool, error: ApiError | None) -> None: ...


class EventStream:
    """The events of one running generation, as blocks of whole events.

    `first` is the block that opened the stream; `next_block` gives the others and `b""` once the
    engine has said that it is done. Raises the error tree's classes, never a transport's.
    `close` before the end drops the connection, which is how an engine learns that nobody waits.
    A `failure` that came together with good events is raised after them.
    """

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        events: sse.EventBuffer,
        first: bytes,
        idle_seconds: float,
        request_id: str,
        on_end: OnEnd,
        failure: ApiError | None = None,
    ) -> None:
        self.first = first
        self._request_id = request_id
        self._pool = pool
        self._connection = connection
        self._events = events
        self._idle_seconds = idle_seconds
        self._is_done = _is_done(first)
        self._on_end = on_end
        self._failure = failure

    async def next_block(self) -> bytes:
        """The next whole events; waits `idle_seconds` at most for each read."""
        if self._failure is not None:
            raise self._failure
        try:
            while not self._is_done:
                data = await self._read()
                if not data:
                    raise TruncatedAnswerError(
                        "The engine ended its answer before it was complete. What you received is "
                        "cut."
                    )
                block, self._failure = until_error(feed(self._events, data), self._request_id)
                if block:
                    self._is_done = _is_done(block)
                    return block
                if self._failure is not None:
                    raise self._failure
        except ApiError as exc:
            self._failure = exc
            raise
        await self._finish()
        return b""

    def close(self) -> None:
        """Give the connection back; call it once, whatever happened."""
        self._pool.release(self._connection)
        self._on_end(is_whole=self._is_done, error=self._failure)

    async def _read(self) -> bytes:
        try:
            return await self._connection.read(self._idle_seconds)
        except EngineSilenceError as exc:
            raise EngineTimeoutError(
                f"The engine sent nothing for {self._idle_seconds:g} s. What you received is cut."
            ) from exc
        except EngineConnectionError as exc:
            raise TruncatedAnswerError(
                "The engine broke off before its answer was complete. What you received is cut."
            ) from exc

    async def _finish(self) -> None:
        """Read the end of the HTTP body, so that the connection can be used again."""
        try:
            await self._connection.read(0.05)
        except (EngineSilenceError, EngineConnectionError):
            log.debug("engine did not end its response after [DONE]; connection dropped")


def _is_done(block: bytes) -> bool:
    return sse.DONE in block and any(data == sse.DONE for data in sse.payloads(block))


def until_error(block: bytes, request_id: str) -> tuple[bytes, ApiError | None]:
    """The events before the first that is an error, or is no event at all; and that error.

    An engine that fails inside a stream says so in an event.
    """
    if b'"error"' not in block and _holds_only_objects(block):
        return block, None
    good: list[bytes] = []
    for event in sse.split_events(block):
        data = sse.data_of(event)
        error = _error_in(data, request_id) if data is not None else None
        if error is not None:
            has_data = any(sse.data_of(each) is not None for each in good)
            return b"".join(each + b"\n\n" for each in good) if has_data else b"", error
        good.append(event)
    return block, None


def _error_in(data: bytes, request_id: str) -> ApiError | None:
    if not _may_be_event(data):
        return InferenceError("The model's engine sent something that is no event.")
    if b'"error"' in data and _has_error(data):
        log.warning(
            "engine failed inside a stream",
            extra={"request_id": request_id}
            | {"engine_reason": data[:500].decode("utf-8", "replace")},
        )
        return translate_error(500, data)
    return None


def _holds_only_objects(block: bytes) -> bool:
    """The usual block, told from its bytes without taking it apart: this is done for each token."""
    return (
        block.startswith(b"data: {")
        and block.endswith(b"}\n\n")
        and block.count(b"\n\n") == block.count(b"}\n\ndata: {") + 1
    )


def _may_be_event(data: bytes) -> bool:
    """An object by its looks, the end, or the `null` that llama-server sends first at times."""
    return (data.startswith(b"{") and data.endswith(b"}")) or data in (sse.DONE, b"null")


class _MaybeError(msgspec.Struct):
    error: Any = None


def _has_error(data: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(data, type=_MaybeError).error)
    except msgspec.DecodeError:
        return False


def feed(events: sse.EventBuffer, data: bytes) -> bytes:
    """The whole events that these bytes complete. Raises where one has no end."""
    try:
        return events.feed(data)
    except sse.EventTooLargeError as exc:
        raise InferenceError("The engine sent an event beyond all bounds.") from exc
