"""The life of a chat or completion request, from its body to its last byte, in one place.

parse -> resolve the model -> may the app use it, and has it room in its limits -> was it answered
before, where it asks for that -> wait for room in the model's engines -> open a stream at one of
them and wait for its first event, before any header goes out -> relay events, or fold them into one
answer -> account for what was used. A model that cannot answer leaves the request to its fallbacks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    QueueTimeoutError,
    ResourceNotAvailableError,
    ShuttingDownError,
)
from api_server.inference import sse
from api_server.inference.catalogue import Catalogue
from api_server.inference.chunks import decode
from api_server.inference.shortening import TRIES, answer_room
from api_server.inference.wire import Call, EventSource
from api_server.observability.metrics import ChunkGaps
from api_server.observability.record import RequestRecord
from api_server.services.access.permissions import allows_model, check_model
from api_server.services.answer_cache.cache import AnswerCache, Turn, wants_cache
from api_server.services.answer_cache.replay import Tape, as_stream
from api_server.services.answers import PLAIN_ANSWER, read_answer
from api_server.services.clean_events import shape_of
from api_server.services.client import Client, Headers
from api_server.services.entrance import Entrance, bound_answer, tokens_of
from api_server.services.fitting import shorten
from api_server.services.folding import Fold
from api_server.services.lane import Lane, Place, find_lane
from api_server.services.limits import keep_within_limits
from api_server.services.relaying import OutgoingEvents
from api_server.services.requests import Generation, Kind, parse_chat, parse_text
from api_server.services.upstream import generation_body
from api_server.services.usage import guessed_prompt_tokens

T = TypeVar("T")

LAST_EVENT_SECONDS = 1.0

BLOCKS_AT_ONCE = 16
"""Then others have their turn: an engine that never pauses must not keep them waiting."""

MAX_FOLDED_BYTES = 256 * 1024 * 1024
"""Of events, for one plain answer."""


class Completions:
    """Serves generations. One object for all requests; a lane for each model."""

    def __init__(
        self,
        catalogue: Catalogue,
        lanes: Mapping[str, Lane],
        entrance: Entrance,
        cache: AnswerCache,
    ) -> None:
        self._catalogue = catalogue
        self._lanes = lanes
        self._entrance = entrance
        self._cache = cache

    async def chat(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one chat. Raises `ApiError` only as long as nothing was sent."""
        await self._serve(parse_chat(body), client, record)

    async def text(self, body: bytes, client: Client, record: RequestRecord) -> None:
        """Answer one text completion. Raises `ApiError` only as long as nothing was sent."""
        await self._serve(parse_text(body), client, record)

    async def _serve(self, generation: Generation, client: Client, record: RequestRecord) -> None:
        record.stream = generation.is_stream
        caller = client.caller
        check_model(caller, generation.model)  # first: it tells nothing of other models
        lane = find_lane(self._catalogue, self._lanes, generation.model, "text")
        model = lane.model
        bound_answer(generation, caller)
        visit = await self._entrance.enter(
            caller, model, record, lambda: tokens_of(generation, model)
        )
        try:
            await self._serve_with_any(lane, generation, client, record)
        except asyncio.CancelledError:
            visit.left(record, lambda: guessed_prompt_tokens(generation.fields, generation.prompts))
            raise
        finally:
            visit.end(record)

    async def _serve_with_any(
        self, lane: Lane, generation: Generation, client: Client, record: RequestRecord
    ) -> None:
        """Answer with the model, or else with one of its fallbacks."""
        left = [each for each in lane.model.fallbacks if allows_model(client.caller, each)]
        mine = _copy(generation) if left else generation
        try:
            await self._serve_with(lane, mine, client, record, waits=not left)
        except ApiError as exc:
            if not left or not _lets_others_try(exc, record):
                raise
            failed = exc
        else:
            return
        while left:
            fallback = self._lanes[left.pop(0)]
            lane.fell_back(fallback.model.id, failed)
            record.fallback_for = lane.model.id
            mine, record.dropped_messages = _copy(generation), 0
            try:
                await self._serve_with(fallback, mine, client, record, waits=not left)
            except InvalidRequestError:  # this model cannot do what was asked of the other one
                continue
            except ApiError as exc:
                if not _lets_others_try(exc, record):
                    raise
            else:
                return
        record.model, record.fallback_for = lane.model.id, None
        raise failed

    async def _serve_with(
        self,
        lane: Lane,
        generation: Generation,
        client: Client,
        record: RequestRecord,
        *,
        waits: bool,
    ) -> None:
        """Answer with one model; only one that `waits` does so while its engines are away."""
        record.model = lane.model.id
        choices = lane.check_choices(generation)
        if not wants_cache(client):
            await self._ask(lane, generation, choices, client, record, waits=waits)
            return
        key = self._cache.key(generation, lane.model, client)
        async with self._cache.turn(key, lane.model.timeouts.total_seconds, record) as turn:
            record.cache = turn.found
            if turn.answer is not None:
                await _answer_again(turn.answer, generation, client, record)
            else:
                await self._ask(lane, generation, choices, client, record, waits=waits, turn=turn)

    async def _ask(
        self,
        lane: Lane,
        generation: Generation,
        choices: int,
        client: Client,
        record: RequestRecord,
        *,
        waits: bool,
        turn: Turn | None = None,
    ) -> None:
        """Answer with what an engine says; where it is somebody's `turn`, that is told of it."""
        tape = self._cache.tape(generation) if turn is not None and generation.is_stream else None
        place = await lane.enter(
            choices, record, is_retry=client.is_retry, caller=client.caller, waits=waits
        )
        answer: bytes | None
        try:
            if not generation.is_stream and lane.model.engine.gets_plain_requests:
                ask = lane.wire.ask
                answer = await _first(ask, generation, lane, place, record, as_stream=False)
                _account_plain(answer, record)
            else:
                answer = await _stream(generation, lane, place, client, record, tape)
        except ApiError as exc:
            if not client.has_begun:
                raise
            await _end_with_error(client, exc, record)
            return
        except asyncio.CancelledError:
            if client.has_begun and not client.has_left:
                error = ShuttingDownError("The server is shutting down. What you received is cut.")
                await _end_with_error(client, error, record)
            raise
        finally:
            lane.leave(place)
        if turn is not None and not record.dropped_messages:
            kept = tape.answer() if tape is not None else answer
            if kept is not None:
                turn.keep(kept)
        if answer is not None:
            await client.answer(answer, _headers(record))


async def _answer_again(
    body: bytes, generation: Generation, client: Client, record: RequestRecord
) -> None:
    """Send an answer that was kept, in the form that is asked for now."""
    record.begin("generating")
    _account_plain(body, record)
    if not generation.is_stream:
        await client.answer(body, _headers(record))
        return
    await client.begin_stream(_headers(record))
    for event in as_stream(msgspec.json.decode(body), generation):
        await client.events(event)
    await client.end_stream()


async def _stream(
    generation: Generation,
    lane: Lane,
    place: Place,
    client: Client,
    record: RequestRecord,
    tape: Tape | None,
) -> bytes | None:
    """The engine streams: relay that, or return one answer folded from it where one is wanted."""
    try:
        async with asyncio.timeout(lane.model.timeouts.total_seconds) as limit:
            place.gives_up_at = limit.when() or place.gives_up_at
            open_stream = lane.wire.open_stream
            stream = await _first(open_stream, generation, lane, place, record, as_stream=True)
            try:
                if not generation.is_stream:
                    return await fold(generation, stream, lane, record)
                await relay(generation, stream, lane, client, record, tape)
                return None
            finally:
                stream.close()
    except TimeoutError as exc:
        raise EngineTimeoutError(
            f"The answer took longer than the {lane.model.timeouts.total_seconds:g} s allowed."
        ) from exc


async def _first(
    ask: Callable[[Call], Awaitable[T]],
    generation: Generation,
    lane: Lane,
    place: Place,
    record: RequestRecord,
    *,
    as_stream: bool,
) -> T:
    """The engine's answer, or its stream with the first event; nothing was sent to the client yet.

    A chat that does not fit is shortened where the model's entry asks for it.
    """
    await keep_within_limits(generation, lane, place, record)
    while True:
        body = generation_body(generation, lane.model, as_stream=as_stream)
        call = lane.call(generation.kind.value, body, place, record, generation)
        try:
            answer = await ask(call)
        except ContextLengthError as exc:
            exc.param = "messages" if generation.kind is Kind.CHAT else "prompt"
            if lane.model.context_overflow == "error" or generation.kind is not Kind.CHAT:
                raise
            await _make_fit(generation, lane, place, exc, record)
        else:
            lane.answered(place)
            record.replica = call.replica
            record.begin("generating")
            if as_stream:
                record.first_token_ms = record.elapsed_ms()
            return answer


async def _make_fit(
    generation: Generation,
    lane: Lane,
    place: Place,
    error: ContextLengthError,
    record: RequestRecord,
) -> None:
    """Drop the oldest messages until the engine's count leaves room for an answer.

    Raises `error` when nothing more may go: each return has made the chat shorter, so that whoever
    asks the engine again after it comes to an end.
    """
    for tries in range(1, TRIES + 1):
        dropped = shorten(generation, error, tries)
        lane.dropped(dropped, record)
        if tries == 1 and not dropped:
            raise error
        body = generation_body(generation, lane.model, as_stream=False)
        call = lane.call(generation.kind.value, body, place, record)
        count = await lane.wire.count_tokens(call)
        context_tokens = error.context_tokens
        if count is None or context_tokens is None:
            return
        if count + answer_room(context_tokens, generation.max_tokens) <= context_tokens:
            return
        if not dropped:
            if count < context_tokens:
                return  # what may not go leaves little room, but it fits
            raise error
        error = ContextLengthError(count, context_tokens)
        error.param = "messages"


async def fold(
    generation: Generation, stream: EventSource, lane: Lane, record: RequestRecord
) -> bytes:
    """Read a whole stream into the JSON body of a plain answer."""
    result = Fold(generation.kind, choices_per_prompt=generation.choices_per_prompt)
    shape = shape_of(generation, lane.model)
    block = stream.first
    size = blocks = 0
    gaps = ChunkGaps()
    try:
        while block:
            size += len(block)
            blocks += 1
            if size > MAX_FOLDED_BYTES:
                raise InferenceError("The model's engine sent an answer beyond all bounds.")
            if blocks % BLOCKS_AT_ONCE == 0:
                await asyncio.sleep(0)
            for data in sse.payloads(block):
                chunk = decode(data) if data != sse.DONE else None
                if chunk is not None:
                    if shape is not None:
                        shape.reshape(chunk)
                    result.add(chunk)
            block = await stream.next_block()
            if block:
                gaps.heard()
    finally:
        lane.chunks_came(record, gaps)
        _account(record, result, generation)
    return msgspec.json.encode(result.answer())


async def relay(
    generation: Generation,
    stream: EventSource,
    lane: Lane,
    client: Client,
    record: RequestRecord,
    tape: Tape | None = None,
) -> None:
    """Pass events on as they come, until the engine has said that it is done."""
    events = OutgoingEvents(
        wants_usage=generation.wants_usage,
        choices_per_prompt=generation.choices_per_prompt,
        prompts=generation.prompts,
        shape=shape_of(generation, lane.model),
        has_one_date=lane.model.engine.has_openai_details,
    )
    gaps = ChunkGaps()
    await client.begin_stream(_headers(record))
    try:
        block = stream.first
        while block:
            outgoing = events.outgoing(block)
            if tape is not None:
                tape.add(outgoing)
            await client.events(outgoing)
            block = await stream.next_block()
            if block:
                gaps.heard()
    finally:
        lane.chunks_came(record, gaps)
        _account(record, events, generation)
    if tape is not None:
        tape.end(events.tally)
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


def _copy(generation: Generation) -> Generation:
    """For one model alone, which may shorten it."""
    return msgspec.structs.replace(generation, fields=dict(generation.fields))


def _lets_others_try(error: ApiError, record: RequestRecord) -> bool:
    """Whether a fallback may answer: the model's engines failed, and before their first byte.

    That too much is going on (a full queue, a wait too long) is no reason: it would only move on.
    """
    return (
        isinstance(error, ResourceNotAvailableError | InferenceError | EngineTimeoutError)
        and not isinstance(error, QueueTimeoutError)
        and record.phase != "generating"
    )


def _headers(record: RequestRecord) -> Headers:
    headers: list[tuple[bytes, bytes]] = []
    if record.dropped_messages:
        headers.append((b"x-dropped-messages", str(record.dropped_messages).encode()))
    if record.fallback_for and record.model:
        headers.append((b"x-fallback-model", record.model.encode()))
    if record.cache:
        headers.append((b"x-cache", record.cache.encode()))
    return headers


def _account(record: RequestRecord, heard: Fold | OutgoingEvents, generation: Generation) -> None:
    """What the engine reported; what came of it, where it did not get to report."""
    tally = heard.tally
    record.finish_reason = heard.finish_reason
    record.tokens_estimated = tally.total() is None
    if record.tokens_estimated:
        record.prompt_tokens = guessed_prompt_tokens(generation.fields, generation.prompts)
        record.completion_tokens = heard.content_events
    else:
        record.prompt_tokens = tally.prompt_tokens
        record.cached_tokens = tally.cached_tokens
        record.completion_tokens = tally.completion_tokens


def _account_plain(body: bytes, record: RequestRecord) -> None:
    answer = read_answer(PLAIN_ANSWER, body)
    record.finish_reason = answer.choices[-1].finish_reason if answer.choices else None
    if answer.usage is not None:
        record.prompt_tokens = answer.usage.prompt_tokens
        record.completion_tokens = answer.usage.completion_tokens
        record.cached_tokens = answer.usage.cached_tokens
