"""Speaks to any engine with OpenAI's HTTP API: llama-server first of all.

The one generation verb is a stream of events. Everything an engine or a socket can do wrong is
translated here, once, into the error tree; no text of an engine reaches a client.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    NoAnswerError,
    ResourceNotAvailableError,
    TruncatedAnswerError,
)
from api_server.inference import sse
from api_server.inference.catalogue import Model
from api_server.inference.complaints import complaint_of_max
from api_server.inference.handlers.http1 import (
    Connection,
    EngineConnectionError,
    EngineSilenceError,
    Origin,
    Pool,
    render_head,
)

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_ANSWER_BYTES = 4 * 1024 * 1024
PROBE_TIMEOUT_SECONDS = 1.0
QUESTION_TIMEOUT_SECONDS = 10.0
RETRY_AFTER_SECONDS = 2
"""What a client is told while an engine is down: about what a restart of a small one takes."""

_UNREADABLE = re.compile(r"Failed to parse (messages|tools)\b")
_BAD_ARGUMENTS = "Failed to parse tool call arguments"
_INPUT_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large .*batch size: (\d+)\)")
_UNSUPPORTED_INPUT = re.compile(r"\b(image|audio|video) input is not supported")

log = logging.getLogger(__name__)


class _EngineErrorBody(msgspec.Struct):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _EngineError(msgspec.Struct):
    error: _EngineErrorBody


class _Count(msgspec.Struct):
    input_tokens: int


def translate_error(status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """What an engine's error means for a client. Pure; the engine's own text stays out."""
    try:
        error = msgspec.json.decode(body, type=_EngineError).error
    except msgspec.DecodeError:
        error = _EngineErrorBody()
    if (fault := _fault_of_the_client(error)) is not None:
        return fault
    if status in (400, 422):
        return InvalidRequestError(
            "The model's engine refused a value in this request. Check the messages or the "
            "prompt, then parameters such as n, response_format, tools or grammar; the "
            "gateway's log has the engine's reason under this request's x-request-id."
        )
    if status in (429, 503):
        seconds = int(retry_after) if retry_after and retry_after.isdecimal() else None
        return ResourceNotAvailableError(
            "The model is loading or its engine is busy. Try again shortly.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
            engine_asks_seconds=seconds,
        )
    return InferenceError("The model's engine failed to answer this request.")


def _fault_of_the_client(error: _EngineErrorBody) -> InvalidRequestError | None:
    """What llama-server says with many a status, 500 among them, and MAX with 400."""
    if error.type == "exceed_context_size_error":
        return ContextLengthError(error.n_prompt_tokens, error.n_ctx)
    if too_long := _INPUT_TOO_LONG.search(error.message):  # how embeddings say it
        return ContextLengthError(int(too_long[1]), int(too_long[2]))
    if unsupported := _UNSUPPORTED_INPUT.search(error.message):
        return InvalidRequestError(
            f"This model takes no {unsupported[1]} input; send text only.", param="messages"
        )
    if error.message.startswith(_BAD_ARGUMENTS):
        return InvalidRequestError(
            "messages: the arguments of a tool call in an earlier answer are not JSON.",
            param="messages",
        )
    if unreadable := _UNREADABLE.match(error.message):
        name = unreadable[1]
        return InvalidRequestError(
            f"The model's engine could not read {name}; check their shape.", param=name
        )
    return complaint_of_max(error.message)


class EventStream:
    """The events of one running generation, as blocks of whole events.

    `first` is the block that opened the stream; `next_block` gives the others and `b""` once the
    engine has said that it is done. Raises the error tree's classes, never a transport's.
    `close` before the end drops the connection, which is how an engine learns that nobody waits.
    """

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        events: sse.EventBuffer,
        first: bytes,
        idle_seconds: float,
        request_id: str,
    ) -> None:
        self.first = first
        self._request_id = request_id
        self._pool = pool
        self._connection = connection
        self._events = events
        self._idle_seconds = idle_seconds
        self._is_done = _is_done(first)

    async def next_block(self) -> bytes:
        """The next whole events; waits `idle_seconds` at most for each read."""
        while not self._is_done:
            data = await self._read()
            if not data:
                raise TruncatedAnswerError(
                    "The engine ended its answer before it was complete. What you received is cut."
                )
            block = _feed(self._events, data)
            if block:
                _raise_if_error(block, self._request_id)
                self._is_done = _is_done(block)
                return block
        await self._finish()
        return b""

    def close(self) -> None:
        """Give the connection back; call it once, whatever happened."""
        self._pool.release(self._connection)

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


def _raise_if_error(block: bytes, request_id: str) -> None:
    """An engine that fails inside a stream says so in an event."""
    if b'"error"' not in block:
        return
    for data in sse.payloads(block):
        if b'"error"' in data and _has_error(data):
            log.warning(
                "engine failed inside a stream",
                extra={"request_id": request_id}
                | {"engine_reason": data[:500].decode("utf-8", "replace")},
            )
            raise translate_error(500, data)


class _MaybeError(msgspec.Struct):
    error: Any = None


def _has_error(data: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(data, type=_MaybeError).error)
    except msgspec.DecodeError:
        return False


def _feed(events: sse.EventBuffer, data: bytes) -> bytes:
    try:
        return events.feed(data)
    except sse.EventTooLargeError as exc:
        raise InferenceError("The engine sent an event beyond all bounds.") from exc


class EngineClient:
    """Reaches one replica of a model over HTTP, by default the first. `aclose` drops its idle
    connections.
    """

    def __init__(self, model: Model, url: str | None = None) -> None:
        self.model = model
        self._pool = Pool(
            Origin.parse(url or model.replicas[0]),
            connect_timeout_seconds=model.timeouts.connect_seconds,
        )
        self._headers = {"content-type": "application/json"}
        if model.api_key:
            self._headers["authorization"] = f"Bearer {model.api_key}"
        self._heads: dict[str, bytes] = {}

    async def ask(self, path: str, body: bytes, request_id: str) -> bytes:
        """The body of one plain answer, within `total_seconds`.

        For generations, only where the engine notices when a client leaves. Cancelling it drops the
        connection. `request_id` must be free of line breaks.
        """
        deadline = asyncio.get_running_loop().time() + self.model.timeouts.total_seconds
        request = self._request(path, body, request_id)
        connection = await self._exchange(request, deadline, self._no_answer)
        try:
            if connection.status != 200:
                raise await self._error(connection, request_id)
            return await self._whole_body(connection, deadline)
        finally:
            self._pool.release(connection)

    async def open_stream(self, path: str, body: bytes, request_id: str) -> EventStream:
        """Start a generation and wait for its first event. Whoever gets the stream closes it.

        Cancelling it drops the connection. `request_id` must be free of line breaks.
        """
        deadline = asyncio.get_running_loop().time() + self.model.timeouts.first_token_seconds
        request = self._request(path, body, request_id)
        connection = await self._exchange(request, deadline, self._no_first_token)
        stream = None
        try:
            if connection.status != 200:
                raise await self._error(connection, request_id)
            events = sse.EventBuffer()
            first = await self._first_block(connection, events, deadline, request_id)
            idle_seconds = self.model.timeouts.idle_seconds
            stream = EventStream(self._pool, connection, events, first, idle_seconds, request_id)
            return stream
        finally:
            if stream is None:
                self._pool.release(connection)

    async def count_tokens(self, body: bytes, request_id: str) -> int | None:
        """How many tokens the prompt of a chat has; None where the engine cannot tell."""
        path = self.model.engine.count_path
        if path is None:
            return None
        answer = await self.ask(path, body, request_id)
        try:
            return msgspec.json.decode(answer, type=_Count).input_tokens
        except msgspec.DecodeError as exc:
            raise InferenceError("The model's engine could not count a prompt.") from exc

    async def is_ready(self) -> bool:
        """Whether the engine says that it could serve a token now. Never raises, 1 s at most."""
        try:
            status, _ = await self._get(self.model.engine.health_path, PROBE_TIMEOUT_SECONDS)
        except ApiError:
            return False
        return status == 200

    async def get_json(self, path: str) -> dict[str, Any]:
        """What the engine tells of itself under a path such as `/props`."""
        status, body = await self._get(path, QUESTION_TIMEOUT_SECONDS)
        try:
            answer: dict[str, Any] = msgspec.json.decode(body, type=dict)
        except msgspec.DecodeError as exc:
            raise InferenceError(f"The engine's {path} is not a JSON object.") from exc
        if status != 200:
            raise InferenceError(f"The engine answered {path} with HTTP {status}.")
        return answer

    async def aclose(self) -> None:
        self._pool.close()

    async def _get(self, path: str, seconds: float) -> tuple[int, bytes]:
        """A small request on a connection of its own: status and body, within a time and a size."""
        head = render_head("GET", self._pool.origin, path, self._headers)
        request = head + b"content-length: 0\r\n\r\n"
        try:
            async with asyncio.timeout(seconds):
                connection, _ = await self._pool.acquire(fresh=True)
                try:
                    connection.send(request)
                    await connection.headers(seconds)
                    body = b""
                    while data := await connection.read(seconds):
                        body += data
                        if len(body) > MAX_ANSWER_BYTES:
                            raise InferenceError(f"The engine's {path} is beyond all bounds.")
                    return connection.status, body
                finally:
                    connection.abort()
        except (TimeoutError, EngineSilenceError) as exc:
            raise EngineTimeoutError(f"The engine did not answer {path} in time.") from exc
        except EngineConnectionError as exc:
            raise _connection_failure(exc) from exc

    def _request(self, path: str, body: bytes, request_id: str) -> bytes:
        """The bytes of a request; all but its id and length is the same for each of a path."""
        head = self._heads.get(path)
        if head is None:
            head = render_head("POST", self._pool.origin, path, self._headers)
            self._heads[path] = head
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            head,
            request_id.encode("latin-1"),
            len(body),
            body,
        )

    async def _exchange(
        self, request: bytes, deadline: float, too_late: Callable[[], ApiError]
    ) -> Connection:
        """Send a request and wait for headers; a kept connection that proves dead is replaced."""
        fresh = False
        while True:
            connection: Connection | None = None
            was_used = has_answered = False
            try:
                connection, was_used = await self._pool.acquire(fresh=fresh)
                connection.send(request)
                await connection.headers(deadline - asyncio.get_running_loop().time())
                has_answered = True
                return connection
            except EngineConnectionError as exc:
                if was_used and connection is not None and not connection.received_bytes:
                    fresh = True
                    continue
                raise _connection_failure(exc) from exc
            except EngineSilenceError as exc:
                raise too_late() from exc
            finally:  # also when cancelled in the very moment in which the headers came
                if connection is not None and not has_answered:
                    connection.abort()

    async def _first_block(
        self, connection: Connection, events: sse.EventBuffer, deadline: float, request_id: str
    ) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            while data := await connection.read(deadline - loop.time()):
                block = _feed(events, data)
                if any(True for _ in sse.payloads(block)):
                    _raise_if_error(block, request_id)
                    return block
        except EngineSilenceError as exc:
            raise self._no_first_token() from exc
        except EngineConnectionError as exc:
            raise _connection_failure(exc) from exc
        raise InferenceError("The model's engine answered without a single event.")

    async def _whole_body(self, connection: Connection, deadline: float) -> bytes:
        loop = asyncio.get_running_loop()
        parts = []
        size = 0
        try:
            while data := await connection.read(deadline - loop.time()):
                parts.append(data)
                size += len(data)
                if size > MAX_BODY_BYTES:
                    raise InferenceError("The engine sent an answer beyond all bounds.")
        except EngineSilenceError as exc:
            raise self._no_answer() from exc
        except EngineConnectionError as exc:
            raise _connection_failure(exc) from exc
        return b"".join(parts)

    def _no_answer(self) -> EngineTimeoutError:
        seconds = self.model.timeouts.total_seconds
        return EngineTimeoutError(f"The engine had no answer within the {seconds:g} s allowed.")

    def _no_first_token(self) -> EngineTimeoutError:
        seconds = self.model.timeouts.first_token_seconds
        return EngineTimeoutError(f"The engine produced no first token within {seconds:g} s.")

    async def _error(self, connection: Connection, request_id: str) -> ApiError:
        body = b""
        try:
            while len(body) < MAX_ERROR_BODY_BYTES:
                data = await connection.read(self.model.timeouts.idle_seconds)
                if not data:
                    break
                body += data
        except (EngineConnectionError, EngineSilenceError):
            log.debug("engine's error body is incomplete")
        log.warning(
            "engine answered with an error",
            extra={"request_id": request_id, "model": self.model.id}
            | {"engine_status": connection.status}
            | {"engine_reason": body[:500].decode("utf-8", "replace")},
        )
        return translate_error(
            connection.status, body, connection.response_headers.get("retry-after")
        )


def _connection_failure(exc: EngineConnectionError) -> ApiError:
    if exc.sent:
        return NoAnswerError("The model's engine closed the connection before it answered.")
    return ResourceNotAvailableError(
        "The model's engine cannot be reached; it may be starting. Try again shortly.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
