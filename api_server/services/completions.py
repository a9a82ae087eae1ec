"""The life of a chat or completion request, from its body to its last byte, in one place.

parse -> resolve the model -> open the engine's stream and wait for its first event, before any
header goes out -> relay events, or fold them into one answer -> account for what was used.
Later stages (limits, cache, admission) take their place between the lines of `serve`.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import msgspec

from api_server.errors import ApiError, EngineTimeoutError, ShuttingDownError
from api_server.inference import sse
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.handlers.openai_compatible import EventStream, OpenAICompatibleHandler
from api_server.observability.record import RequestRecord
from api_server.services.chunks import decode
from api_server.services.folding import Fold
from api_server.services.relaying import OutgoingEvents
from api_server.services.requests import Generation, Kind, parse, upstream_body
from api_server.services.usage import UsageTally

LAST_EVENT_SECONDS = 1.0
SHUTTING_DOWN = "The server is shutting down; send the request again. What you received is cut."


class Client(Protocol):
    """Who waits for the answer. Every method may be cancelled when the client leaves."""

    @property
    def has_begun(self) -> bool:
        """Whether headers went out, so that an error can only be an event."""

    @property
    def has_left(self) -> bool:
        """Whether nobody listens any more."""

    async def answer(self, body: bytes) -> None:
        """Send a whole JSON answer with status 200."""

    async def begin_stream(self) -> None:
        """Send the headers of an event stream; after this only events may follow."""

    async def events(self, block: bytes) -> None:
        """Send whole events; waits while the client reads more slowly than the engine writes."""

    async def end_stream(self) -> None:
        """End an event stream."""

    def cut_off(self) -> None:
        """Drop the connection at once, with whatever the client did not read."""


class Completions:
    """Serves generations. Handlers by model id; one object for all requests."""

    def __init__(
        self, catalogue: Catalogue, handlers: Mapping[str, OpenAICompatibleHandler]
    ) -> None:
        self._catalogue = catalogue
        self._handlers = handlers
        self.in_flight = 0

    async def serve(self, kind: Kind, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one request. Raises `ApiError` only as long as nothing was sent."""
        generation = parse(kind, body)
        record.stream = generation.is_stream
        model = self._catalogue.find(generation.model)
        record.model = model.id
        self.in_flight += 1
        try:
            await self._generate(generation, model, client, record)
        except ApiError as exc:
            if not client.has_begun:
                raise
            await _end_with_error(client, exc, record)
        except asyncio.CancelledError:
            if client.has_begun and not client.has_left:
                await _end_with_error(client, ShuttingDownError(SHUTTING_DOWN), record)
            raise
        finally:
            self.in_flight -= 1

    async def _generate(
        self, generation: Generation, model: Model, client: Client, record: RequestRecord
    ) -> None:
        handler = self._handlers[model.id]
        path, body = generation.kind.value, upstream_body(generation, model)
        try:
            async with (
                asyncio.timeout(model.timeouts.total_seconds),
                handler.open_stream(path, body, record.request_id) as stream,
            ):
                record.mark_first_token()
                if generation.is_stream:
                    await relay(generation, stream, client, record)
                else:
                    await client.answer(await fold(generation, stream, record))
        except TimeoutError as exc:
            raise _too_long(model) from exc


async def fold(generation: Generation, stream: EventStream, record: RequestRecord) -> bytes:
    """Read a whole stream into the JSON body of a plain answer."""
    result = Fold(generation.kind, choices_per_prompt=generation.choices_per_prompt)
    block = stream.first
    while block:
        for data in sse.payloads(block):
            chunk = decode(data) if data != sse.DONE else None
            if chunk is not None:
                result.add(chunk)
        block = await stream.next_block()
    _account(record, result.tally, result.finish_reason)
    return msgspec.json.encode(result.answer())


async def relay(
    generation: Generation, stream: EventStream, client: Client, record: RequestRecord
) -> None:
    """Pass events on as they come, until the engine has said that it is done."""
    events = OutgoingEvents(
        wants_usage=generation.wants_usage, choices_per_prompt=generation.choices_per_prompt
    )
    await client.begin_stream()
    try:
        block = stream.first
        while block:
            await client.events(events.outgoing(block))
            block = await stream.next_block()
    finally:
        _account(record, events.tally, events.finish_reason)
    await client.end_stream()


def error_event(error: ApiError) -> bytes:
    """The terminal event of a stream that failed, in the envelope of every other error."""
    return b"event: error\ndata: " + msgspec.json.encode(error.envelope()) + b"\n\n"


async def _end_with_error(client: Client, error: ApiError, record: RequestRecord) -> None:
    """The last event of a stream that failed; a client that does not even read it is cut off."""
    record.fail("error_in_stream", error.code, error.message, error.log_level)
    # asyncio.wait, since asyncio.timeout fails in a cancelled task before Python 3.11.4.
    last_words = asyncio.create_task(_say_last(client, error_event(error)))
    await asyncio.wait({last_words}, timeout=LAST_EVENT_SECONDS)
    if not last_words.done():
        last_words.cancel()
        client.cut_off()
        record.outcome = "client_stalled"


async def _say_last(client: Client, event: bytes) -> None:
    await client.events(event)
    await client.end_stream()


def _account(record: RequestRecord, tally: UsageTally, finish_reason: str | None) -> None:
    record.finish_reason = finish_reason
    if tally.total() is not None:
        record.prompt_tokens = tally.prompt_tokens
        record.completion_tokens = tally.completion_tokens


def _too_long(model: Model) -> EngineTimeoutError:
    return EngineTimeoutError(
        f"The answer took longer than the {model.timeouts.total_seconds:g} s allowed for it."
    )
