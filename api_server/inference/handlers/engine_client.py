"""Speaks to one engine with OpenAI's HTTP API: llama-server first of all.

The one generation verb is a stream of events. What an engine or a socket does wrong is translated
in `faults.py` and `event_stream.py` into the error tree; no text of an engine reaches a client.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
)
from api_server.inference import sse
from api_server.inference.catalogue import Model
from api_server.inference.chunks import decode
from api_server.inference.dimensions import Dimensions, told_by
from api_server.inference.handlers.event_stream import EventStream, OnEnd, feed, until_error
from api_server.inference.handlers.faults import connection_failure, translate_error
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
DIMENSIONS_TIMEOUT_SECONDS = 5.0

log = logging.getLogger(__name__)


OnSent = Callable[[], None]


class _Count(msgspec.Struct):
    input_tokens: int


class _Whole(msgspec.Struct):
    """What every answer with status 200 has: one of these, and no error."""

    error: Any = None
    choices: list[msgspec.Raw] | None = None
    data: list[msgspec.Raw] | None = None
    input_tokens: int | None = None


_WHOLE = msgspec.json.Decoder(_Whole)


def _nothing(*, is_whole: bool, error: ApiError | None) -> None:  # noqa: ARG001 - an OnEnd
    return


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

    async def ask(
        self, path: str, body: bytes, request_id: str, on_sent: OnSent | None = None
    ) -> bytes:
        """The body of one plain answer, within `total_seconds`.

        For generations, only where the engine notices when a client leaves. Cancelling it drops the
        connection. `request_id` must be free of line breaks. `on_sent` hears that an engine was
        reached, before it has answered.
        """
        deadline = asyncio.get_running_loop().time() + self.model.timeouts.total_seconds
        request = self._request(path, body, request_id)
        connection = await self._exchange(request, deadline, self._no_answer, on_sent)
        try:
            if connection.status != 200:
                raise await self._error(connection, request_id)
            return _checked(await self._whole_body(connection, deadline))
        finally:
            self._pool.release(connection)

    async def open_stream(
        self,
        path: str,
        body: bytes,
        request_id: str,
        on_end: OnEnd = _nothing,
        on_sent: OnSent | None = None,
    ) -> EventStream:
        """Start a generation and wait for its first event. Whoever gets the stream closes it.

        Cancelling it drops the connection. `request_id` must be free of line breaks. `on_end` hears
        of the end of a stream that was given out, `on_sent` as for `ask`.
        """
        deadline = asyncio.get_running_loop().time() + self.model.timeouts.first_token_seconds
        request = self._request(path, body, request_id)
        connection = await self._exchange(request, deadline, self._no_first_token, on_sent)
        stream = None
        try:
            if connection.status != 200:
                raise await self._error(connection, request_id)
            events = sse.EventBuffer()
            first, failure = await self._first_block(connection, events, deadline, request_id)
            idle_seconds = self.model.timeouts.idle_seconds
            stream = EventStream(
                self._pool, connection, events, first, idle_seconds, request_id, on_end, failure
            )
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

    async def dimensions(self) -> Dimensions:
        """Its slots and its context, as far as it tells them. Raises `ApiError` where it is away,
        loading or in trouble.
        """
        path = self.model.engine.dimensions_path
        assert path is not None, "this engine cannot tell"
        status, body = await self._get(path, DIMENSIONS_TIMEOUT_SECONDS)
        if status == 429 or status >= 500:
            raise translate_error(status, body)
        try:
            answer = msgspec.json.decode(body, type=dict) if status == 200 else {}
        except msgspec.DecodeError:
            answer = {}
        return told_by(self.model.engine, self.model.name_at_engine or self.model.id, answer)

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
            raise connection_failure(exc) from exc

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
        self,
        request: bytes,
        deadline: float,
        too_late: Callable[[], ApiError],
        on_sent: OnSent | None,
    ) -> Connection:
        """Send a request and wait for headers; a kept connection that proves dead is replaced."""
        fresh = False
        while True:
            connection: Connection | None = None
            was_used = has_answered = False
            try:
                connection, was_used = await self._pool.acquire(fresh=fresh)
                connection.send(request)
                if on_sent is not None:
                    on_sent()
                await connection.headers(deadline - asyncio.get_running_loop().time())
                has_answered = True
                return connection
            except EngineConnectionError as exc:
                if was_used and connection is not None and not connection.received_bytes:
                    fresh = True
                    continue
                raise connection_failure(exc) from exc
            except EngineSilenceError as exc:
                raise too_late() from exc
            finally:  # also when cancelled in the very moment in which the headers came
                if connection is not None and not has_answered:
                    connection.abort()

    async def _first_block(
        self, connection: Connection, events: sse.EventBuffer, deadline: float, request_id: str
    ) -> tuple[bytes, ApiError | None]:
        """The first events, and an error that followed them at once. Raises one that did not.

        What is no chunk of an answer is an error here, when another engine can still be asked.
        """
        loop = asyncio.get_running_loop()
        begun = b""
        try:
            while data := await connection.read(deadline - loop.time()):
                block, failure = until_error(feed(events, data), request_id)
                begun += block
                has_begun = False
                for payload in sse.payloads(block):  # each of them is looked at
                    has_begun = _is_chunk(payload, has_begun=has_begun) or has_begun
                if has_begun:
                    return begun, failure
                if failure is not None:
                    raise failure
        except EngineSilenceError as exc:
            raise self._no_first_token() from exc
        except EngineConnectionError as exc:
            raise connection_failure(exc) from exc
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
            raise connection_failure(exc) from exc
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
        error = translate_error(
            connection.status, body, connection.response_headers.get("retry-after")
        )
        # The client is told of both lengths, and one file may have a thousand such texts.
        log.log(
            logging.DEBUG if isinstance(error, ContextLengthError) else logging.WARNING,
            "engine answered with an error",
            extra={"request_id": request_id, "model": self.model.id}
            | {"engine_status": connection.status}
            | {"engine_reason": body[:500].decode("utf-8", "replace")},
        )
        return error


def _checked(body: bytes) -> bytes:
    """An answer with status 200, unless it is none, or says so."""
    try:
        whole = _WHOLE.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InferenceError(
            "The model's engine answered with something that is no answer."
        ) from exc
    if whole.error:
        raise translate_error(500, body)
    if whole.choices is None and whole.data is None and whole.input_tokens is None:
        raise InferenceError("The model's engine answered with something that is no answer.")
    return body


def _is_chunk(payload: bytes, *, has_begun: bool) -> bool:
    """Whether an answer has begun with it; false for the `null` that llama-server sends at times.

    Raises `InferenceError` for what is no part of an answer, and for an end before its beginning.
    """
    if payload == sse.DONE:
        if has_begun:
            return False
        raise InferenceError("The model's engine ended its answer without having begun it.")
    chunk = decode(payload)
    if chunk is None:
        return False
    if not isinstance(chunk.get("choices"), list):
        raise InferenceError("The model's engine sent something that is no event.")
    return True
