"""The stream of a run for one client: what was said, then what is said, until the run stops.

It keeps no event for a slow client: each is read again from where it is, memory or rows.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from api_server.errors import DependencyDownError
from api_server.services.runs.hub import Channel, Hub
from api_server.services.runs.objects import STOPS, shown_event, to_json
from api_server.stores.run_rows import Event
from api_server.stores.runs import RunStore

ALIVE_SECONDS = 15.0
PATIENCE_SECONDS = 30.0
"""So long a stream waits for a PostgreSQL that is away."""

DONE = b"event: done\ndata: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"
TEXT = "thread.message.delta"
WAITING = frozenset({"queued", "in_progress", "cancelling"})


def frame(event: Event) -> bytes:
    """An event as it goes over the wire."""
    return f"id: {event.n}\nevent: {event.event}\ndata: {event.data}\n\n".encode()


def error_frame(message: str) -> bytes:
    """`ErrorEvent` of the reference: the stream ends, the run goes on."""
    error = {"code": "server_error", "message": message, "param": None, "type": "server_error"}
    return f"event: error\ndata: {to_json(error)}\n\n".encode()


class Following:
    """One object for all streams."""

    def __init__(self, store: RunStore, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    async def stream(
        self,
        run_id: str,
        after: int,
        known: Sequence[Event] = (),
        *,
        to_end: bool = False,
        with_results: bool = False,
        speaks: Callable[[], None] | None = None,
    ) -> AsyncIterator[bytes]:
        """The same as `events`, as blocks of an SSE stream; `with_results` of searches. `speaks` is
        called at its first text.
        """
        try:
            async with aclosing(self.events(run_id, after, known, to_end=to_end)) as blocks:
                async for block in blocks:
                    if speaks is not None and any(each.event == TEXT for each in block):
                        speaks()
                        speaks = None
                    shown = (shown_event(each, with_results=with_results) for each in block)
                    yield b"".join(map(frame, shown)) if block else ALIVE
        except DependencyDownError as exc:
            yield error_frame(exc.message)
            return
        yield DONE

    async def events(
        self, run_id: str, after: int, known: Sequence[Event] = (), *, to_end: bool = False
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Events behind `after`, of which the first may be `known` already; none now and then,
        while nothing happens.

        It ends where the run stops; with `to_end` only where nothing comes behind that. Raises
        `DependencyDownError` where PostgreSQL stays away.
        """
        with self._hub.follow(run_id) as follower:
            spoke = time.monotonic()
            away_since: float | None = None
            events: Sequence[Event] = known
            channel: Channel | None = None
            is_fresh = bool(known)  # its rows are known, unless there was news of it since
            while True:
                stop = next((n for n, each in enumerate(events, 1) if each.event in STOPS), None)
                if stop is not None and not to_end:
                    events = events[:stop]
                if events:
                    after, spoke = events[-1].n, time.monotonic()
                    yield events
                if stop is not None and not to_end:
                    break
                channel = self._hub.channel(run_id) or channel
                look, is_over = not events or stop is not None, False
                try:
                    if is_fresh and channel is None and not follower.has_news:
                        events = ()
                    else:
                        events, is_over = await self._next(run_id, after, channel, look=look)
                    is_fresh, away_since = False, None
                except DependencyDownError:
                    away_since = away_since or time.monotonic()
                    if time.monotonic() - away_since > PATIENCE_SECONDS:
                        raise
                    events, is_over = (), False
                if is_over:
                    break
                if not events and stop is None:  # behind a stop mostly nothing comes: look at once
                    await follower.wait(self._hub.look_seconds)
                    if time.monotonic() - spoke >= ALIVE_SECONDS:
                        spoke = time.monotonic()
                        yield ()

    async def _next(
        self, run_id: str, after: int, channel: Channel | None, *, look: bool
    ) -> tuple[Sequence[Event], bool]:
        """What comes behind an event, and whether nothing will. `channel` may be closed by now: it
        still has the last that was said.
        """
        newest = channel.after(after) if channel is not None else None
        if newest or (newest is not None and channel is self._hub.channel(run_id)):
            return newest, False
        events = await self._store.events(run_id, after)
        if events or not look:
            return events, False
        position = await self._store.position(run_id)
        if position is None:
            return (), True
        is_still = position.status not in WAITING
        return (), is_still and (position.last_event <= after or not position.has_events)
