"""Writes what runs do: in the order they did it, all runs of a process together, a few tens of
milliseconds apart, or at once where somebody waits for it.

Whoever lost its run learns it here and writes nothing more.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from api_server.errors import DependencyDownError
from api_server.services.runs.hub import Channel, Hub
from api_server.services.runs.objects import to_json
from api_server.stores.run_rows import Action, Change, Event, Run, RunStatus, Spoken, Step
from api_server.stores.runs import RunStore

INTERVAL_SECONDS = 0.025
"""Between two writes of a process, while nobody waits."""

LAZILY, SOON, AT_ONCE = range(3)

AGAIN_SECONDS = 0.25
MOST_UNWRITTEN = 2000
"""Events of one run; then it goes no faster than PostgreSQL."""

log = logging.getLogger(__name__)

Named = tuple[str, object]
"""An event's name and its object."""


class LostError(Exception):
    """The run is somebody else's now, or gone: nothing more may be done for it."""


class WantedCancelledError(Exception):
    """The run was to wait for a client, but somebody wants it cancelled: nothing was written."""


class Pen:
    """Writes one run, for as long as its job is held. `run` is how it stands.

    `cancelling` is called once, when somebody wants the run cancelled.
    """

    def __init__(
        self,
        scribe: "Scribe",
        channel: Channel,
        run: Run,
        fence: int,
        cancelling: Callable[[], None],
    ) -> None:
        self.run = run
        self.channel = channel
        self.fence = fence
        self.error: Exception | None = None
        self._scribe = scribe
        self._cancelling = cancelling
        self._pending: Change | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._unwritten = 0

    def note(
        self,
        run: Run | None = None,
        *,
        steps: Sequence[Step] = (),
        messages: Sequence[Spoken] = (),
        actions: Sequence[Action] = (),
        gone_messages: Sequence[str] = (),
        events: Sequence[Named] = (),
        is_lazy: bool = False,
    ) -> None:
        """Show events at once, and write all of it soon; a lazy note waits for what comes next."""
        told = self._add(run, steps, messages, actions, gone_messages, events)
        self._scribe.wake(self, LAZILY if is_lazy else SOON)
        self._show(told)

    async def commit(
        self,
        run: Run | None = None,
        *,
        steps: Sequence[Step] = (),
        messages: Sequence[Spoken] = (),
        actions: Sequence[Action] = (),
        gone_messages: Sequence[str] = (),
        events: Sequence[Named] = (),
    ) -> None:
        """Write all so far, and this; show its events when it is written.

        Raises `LostError`, and what the write raised.
        """
        told = self._add(run, steps, messages, actions, gone_messages, events)
        await self.flush()
        self._show(told)

    async def flush(self) -> None:
        """Wait until everything so far is written. Raises `LostError`."""
        if self.error is not None:
            raise self.error
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._scribe.wake(self, AT_ONCE)
        await done

    async def keep_pace(self) -> None:
        """Wait where far more was done than is written. Raises `LostError`."""
        if self.error is not None:
            raise self.error
        if self._unwritten > MOST_UNWRITTEN:
            await self.flush()

    # what the scribe calls

    def take(self) -> tuple[Change, list["asyncio.Future[None]"]] | None:
        """What is to be written now, and who waits for it."""
        change, waiting = self._pending, self._waiting
        self._pending, self._waiting = None, []
        if change is None:
            for each in waiting:
                _resolve(each, self.error)
            return None
        return change, waiting

    def put_back(self, change: Change, waiting: "list[asyncio.Future[None]]") -> None:
        """It could not be written yet."""
        if self._pending is not None:
            change.add(self._pending)
        self._pending = change
        self._waiting = waiting + self._waiting

    def written(self, change: Change, status: RunStatus) -> None:
        """It is a row now."""
        self._unwritten -= len(change.events)
        if change.events:
            self.channel.written(change.events[-1].n)
        if status == "cancelling" and change.run.status in ("queued", "in_progress"):
            self._cancelling()

    def dropped(self, change: Change) -> None:
        """It will never be a row."""
        self._unwritten -= len(change.events)

    def fail(self, error: Exception) -> None:
        """Nothing more can be written."""
        self.error = error
        for each in self._waiting:
            _resolve(each, error)
        self._pending, self._waiting = None, []

    # inside

    def _add(
        self,
        run: Run | None,
        steps: Sequence[Step],
        messages: Sequence[Spoken],
        actions: Sequence[Action],
        gone_messages: Sequence[str],
        events: Sequence[Named],
    ) -> list[Event]:
        first = self.run.last_event + 1
        told = [
            Event(first + number, name, to_json(content))
            for number, (name, content) in enumerate(events)
        ]
        self.run = replace(run or self.run, last_event=self.run.last_event + len(told))
        change = Change(
            self.run,
            self.fence,
            {each.id: each for each in steps},
            {each.id: each for each in messages},
            {each.id: each for each in actions},
            set(gone_messages),
            told,
        )
        self._unwritten += len(told)
        if self._pending is None:
            self._pending = change
        else:
            self._pending.add(change)
        return told

    def _show(self, told: Sequence[Event]) -> None:
        if told and self.error is None:
            self.channel.tell(told)
            self._scribe.hub.told(self.run.id)


class Scribe:
    """One for a process: writes for all of its runs."""

    def __init__(self, store: RunStore, hub: Hub) -> None:
        self.hub = hub
        self._store = store
        self._dirty: dict[Pen, None] = {}
        self._due = math.inf
        self._sooner = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0

    def wake(self, pen: Pen, haste: int) -> None:
        """A pen has something to write, or waits for what it had."""
        self._dirty[pen] = None
        due = 0.0
        if haste < AT_ONCE:
            began = time.monotonic() if haste == LAZILY else self._began
            due = began + INTERVAL_SECONDS
        if due < self._due:
            self._due = due
            self._sooner.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def aclose(self) -> None:
        """Write what there is, for some seconds at most."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=3.0)
            self._task.cancel()

    async def _write_all(self) -> None:
        while self._dirty:
            await self._pause()
            pens = list(self._dirty)
            self._dirty.clear()
            self._began = time.monotonic()
            taken = {pen: each for pen in pens if (each := pen.take()) is not None}
            if not taken:
                continue
            try:
                await self._write(taken)
            except DependencyDownError:
                for pen, each in taken.items():
                    pen.put_back(*each)
                    self.wake(pen, SOON)
                await asyncio.sleep(AGAIN_SECONDS)
            except Exception as exc:  # noqa: BLE001 - one of them may have spoilt it for others
                if len(taken) == 1:
                    _give_up(taken, exc)
                    continue
                for pen, each in taken.items():
                    await self._write_alone(pen, each)

    async def _pause(self) -> None:
        """Give others the time to come along, unless somebody waits."""
        while (left := self._due - time.monotonic()) > 0:
            self._sooner.clear()
            waiting = asyncio.create_task(self._sooner.wait())
            try:
                await asyncio.wait({waiting}, timeout=min(left, INTERVAL_SECONDS))
            finally:
                waiting.cancel()
        self._due = math.inf

    async def _write_alone(
        self, pen: Pen, each: "tuple[Change, list[asyncio.Future[None]]]"
    ) -> None:
        try:
            await self._write({pen: each})
        except DependencyDownError:
            pen.put_back(*each)
            self.wake(pen, SOON)
        except Exception as exc:  # noqa: BLE001 - whoever wrote it gets it
            _give_up({pen: each}, exc)

    async def _write(
        self, taken: "Mapping[Pen, tuple[Change, list[asyncio.Future[None]]]]"
    ) -> None:
        changes = [change for change, _ in taken.values()]
        states = await self._store.write(changes)
        lost = [change for change in changes if change.run.id not in states]
        still = await self._store.still_ours(lost) if lost else {}
        for pen, (change, waiting) in taken.items():
            status = states.get(change.run.id)
            error: Exception | None = None
            if status is not None:
                pen.written(change, status)
            elif still.get(change.run.id) == "cancelling":
                pen.dropped(change)
                error = WantedCancelledError()
            else:
                error = LostError()
                pen.fail(error)
            for each in waiting:
                _resolve(each, error)


def _give_up(
    taken: "Mapping[Pen, tuple[Change, list[asyncio.Future[None]]]]", error: Exception
) -> None:
    log.error("what a run did could not be written", exc_info=error)
    for pen, (_, waiting) in taken.items():
        pen.fail(error)
        for each in waiting:
            _resolve(each, error)


def _resolve(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
