"""All replicas of one model: chooses one for each call, and another when that fails in time."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Set
from functools import partial
from typing import TypeVar

from api_server.errors import (
    ApiError,
    EngineTimeoutError,
    InferenceError,
    InvalidRequestError,
    NoAnswerError,
    ResourceNotAvailableError,
)
from api_server.inference.catalogue import Model
from api_server.inference.handlers.engine_client import PROBE_TIMEOUT_SECONDS
from api_server.inference.handlers.event_stream import EventStream
from api_server.inference.replicas.choosing import Standing, choose, hash_of
from api_server.inference.replicas.replica import Replica
from api_server.inference.replicas.retrying import RetryBudget, pause_seconds
from api_server.inference.wire import Call

T = TypeVar("T")

SPARE_RESENDS = 10
"""What the retry budget holds beyond the requests that the replicas have at the same time."""

log = logging.getLogger(__name__)


def _nobody(_: "ReplicaSet") -> None:
    return


class ReplicaSet:
    """The `Wire` to the engines of one model over HTTP. Nothing connects before the first call.

    `start` begins to watch the health of several replicas, `aclose` ends that and drops idle
    connections; calls may be made before, between and after. `notice` is called whenever another
    number of replicas is sound.
    """

    def __init__(self, model: Model, notice: Callable[["ReplicaSet"], None] = _nobody) -> None:
        self.model = model
        self.replicas = [Replica(model, url) for url in model.replicas]
        self.notice = notice
        places = model.slots * len(self.replicas)
        self._budget = RetryBudget(model.retries.budget, places + SPARE_RESENDS)
        self._came_back = asyncio.Event()
        self._sound = len(self.replicas)
        self._watching: asyncio.Task[None] | None = None

    @property
    def sound(self) -> int:
        """How many replicas have nothing against them."""
        return self._sound

    @property
    def wants_prefix(self) -> bool:
        """Whether calls should say what their conversation begins with."""
        return len(self.replicas) > 1 and self.model.balancing.prefix_affinity

    async def start(self) -> None:
        """Begin to watch the health of several replicas; one is learnt about from its traffic,
        but that it is another one now.
        """
        is_watched = len(self.replicas) > 1 and self.model.engine.is_probed
        is_watched = is_watched or any(each.inspection.is_wanted for each in self.replicas)
        if self._watching is None and is_watched:
            self._watching = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """End what `start` began, drop idle connections."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None
        for replica in self.replicas:
            await replica.inspection.aclose()
            await replica.client.aclose()

    async def ask(self, call: Call) -> bytes:
        """One answer in one piece."""
        return await self._try(call, self._ask)

    async def open_stream(self, call: Call) -> EventStream:
        """Start a generation and wait for its first event."""
        return await self._try(call, self._open_stream)

    async def count_tokens(self, call: Call) -> int | None:
        """How many tokens a chat has, by the engine's own count; None where it cannot tell."""
        if self.model.engine.count_path is None:
            return None
        return await self._try(call, self._count_tokens)

    async def is_ready(self) -> bool:
        """Whether one replica at least says that it could serve a token now."""
        probes = [asyncio.create_task(self._is_ready(each)) for each in self.replicas]
        try:
            for answer in asyncio.as_completed(probes):
                if await answer:
                    return True
            return False
        finally:
            for probe in probes:
                probe.cancel()

    @property
    def problems(self) -> list[str]:
        """What is wrong with replicas that get no requests because of it, in sentences."""
        found = (each.inspection.problem for each in self.replicas)
        return [problem for problem in found if problem is not None]

    async def _is_ready(self, replica: Replica) -> bool:
        if not await replica.client.is_ready():
            return False
        if not replica.inspection.is_wanted:
            return True
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await replica.inspection.pass_(replica.client)
        except (ApiError, TimeoutError):
            return False
        finally:
            self._look_around()
        return True

    # one try

    async def _inspect(self, replica: Replica) -> None:
        """Let it pass only as planned. Raises `ResourceNotAvailableError`: no engine has seen the
        request.
        """
        trial = replica.begin(0)
        error: ApiError | None = None
        try:
            await replica.inspection.pass_(replica.client)
        except ApiError as exc:
            error = None if replica.inspection.problem is not None else exc
            if isinstance(exc, ResourceNotAvailableError):
                raise
            raise self._all_away(0.0) from exc
        finally:
            self._ended(replica, 0, trial, is_whole=False, error=error)
            self._look_around()

    async def _ask(self, replica: Replica, call: Call) -> bytes:
        on_sent = self._on_sent(replica)
        return await self._at(replica, call, replica.client.ask(*_request(call), on_sent))

    async def _count_tokens(self, replica: Replica, call: Call) -> int | None:
        counting = replica.client.count_tokens(call.body, call.request_id)
        return await self._at(replica, call, counting)

    async def _at(self, replica: Replica, call: Call, asking: Awaitable[T]) -> T:
        trial = replica.begin(call.weight)
        error: ApiError | None = None
        is_whole = False
        try:
            answer = await asking
            is_whole = True
            return answer
        except ApiError as exc:
            error = exc
            raise
        finally:
            self._ended(replica, call.weight, trial, is_whole=is_whole, error=error)

    async def _open_stream(self, replica: Replica, call: Call) -> EventStream:
        trial = replica.begin(call.weight)
        on_end = partial(self._stream_ended, replica, call.weight, trial)
        error: ApiError | None = None
        stream: EventStream | None = None
        try:
            on_sent = self._on_sent(replica)
            stream = await replica.client.open_stream(*_request(call), on_end, on_sent)
        except ApiError as exc:
            error = exc
            raise
        finally:
            if stream is None and error is None and _now() >= call.gives_up_at:
                error = EngineTimeoutError("The engine had not begun when the time was over.")
            if stream is None:
                self._ended(replica, call.weight, trial, is_whole=False, error=error)
        self._answered(replica)
        return stream

    def _on_sent(self, replica: Replica) -> Callable[[], None] | None:
        """Others need not wait for the whole answer of the one that tries whether it is back."""
        if replica.breaker.is_closed:
            return None

        def reached() -> None:
            replica.reached()
            self._wake()

        return reached

    def _stream_ended(
        self,
        replica: Replica,
        weight: int,
        trial: int,
        *,
        is_whole: bool,
        error: ApiError | None,
    ) -> None:
        """A stream that nobody wants more of says nothing bad of its engine."""
        is_whole = is_whole or error is None
        self._ended(replica, weight, trial, is_whole=is_whole, error=error)

    def _answered(self, replica: Replica) -> None:
        if not replica.is_sound or replica.refusals:
            replica.answered(_now())
            self._look_around()

    def _ended(
        self,
        replica: Replica,
        weight: int,
        trial: int,
        *,
        is_whole: bool,
        error: ApiError | None,
    ) -> None:
        if is_whole or isinstance(error, InvalidRequestError):  # it answered, if only to refuse
            is_whole = True
            self._answered(replica)
        replica.ended(weight, _now(), trial, is_whole=is_whole, error=error)
        if error is not None:
            self._look_around()

    # try after try

    async def _try(self, call: Call, attempt: Callable[[Replica, Call], Awaitable[T]]) -> T:
        """The first answer of a replica that gives one.

        What an engine has not seen, or refused for now, goes to the next replica at once; what it
        has seen goes to another after a pause, as often as `resends` and the budget allow. When no
        replica is left the call waits for one until its deadline. Raises the last error.
        """
        retries = self.model.retries
        self._budget.deposit()
        tried: set[Replica] = set()
        failures = resends = 0
        error: ApiError | None = None
        while True:
            replica = self.choose(call, tried)
            was_seen = False
            if replica is not None:
                call.replica = replica.name
                try:
                    if replica.inspection.is_due:
                        await self._inspect(replica)
                    return await attempt(replica, call)
                except ResourceNotAvailableError as exc:
                    error = exc
                except (InferenceError, EngineTimeoutError) as exc:
                    error = exc
                    was_seen = True
                    resends += 1
                    tried.add(replica)
                    may_go_on = resends <= retries.resends and (
                        isinstance(exc, NoAnswerError) or self._has_more(tried)
                    )
                    if not may_go_on or not self._budget.withdraw():
                        raise
                tried.add(replica)
            pause = pause_seconds(retries, failures, random.random())  # noqa: S311 - jitter
            failures += 1
            if not self._has_more(tried):
                pause = max(pause, self._seconds_until_usable())
                tried.clear()
                if _now() + pause >= call.deadline:
                    raise error or self._all_away(pause)
            elif not was_seen:
                pause = 0.0
            if replica is not None and error is not None:
                call.on_retry(error)
            await self._pause(pause)

    def choose(self, call: Call, tried: Set[Replica] = frozenset()) -> Replica | None:
        """The replica for a call, of those not tried; None when none may be used now."""
        if len(self.replicas) == 1 and not tried and self.replicas[0].is_sound:
            replica = self.replicas[0]
            return replica if replica.room(_now()) else None
        standings = self._standings(tried)
        key = hash_of(call.prefix) if call.prefix else None
        load = self.model.balancing.affinity_load
        chance = random.random()  # noqa: S311 - between equals
        place = choose(standings, key, call.weight, load, chance)
        return None if place is None else self.replicas[place]

    def _standings(self, tried: Set[Replica]) -> list[Standing]:
        """What may be chosen: what is sound; where nothing is, what a health route alone calls
        down; else what can be reached, however badly it answered. A model's last replica is not
        taken away because of requests that it cannot serve.
        """
        now = _now()
        rooms = [0.0 if each in tried else each.room(now) for each in self.replicas]
        up = [room if each.is_up else 0.0 for room, each in zip(rooms, self.replicas, strict=True)]
        if any(up):
            rooms = up
        elif not any(rooms):
            rooms = [
                float(self.model.slots) if each.is_within_reach(now) and each not in tried else 0.0
                for each in self.replicas
            ]
        return [
            Standing(each.seed, each.in_flight, room)
            for each, room in zip(self.replicas, rooms, strict=True)
        ]

    def _has_more(self, tried: Set[Replica]) -> bool:
        return any(standing.room > 0 for standing in self._standings(tried))

    def _seconds_until_usable(self) -> float:
        return max(0.0, min(each.usable_at() for each in self.replicas) - _now())

    def _all_away(self, seconds: float) -> ResourceNotAvailableError:
        return ResourceNotAvailableError(
            f"No engine of '{self.model.id}' can be used at the moment. Try again shortly.",
            retry_after_seconds=max(1.0, seconds),
        )

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until a replica comes back."""
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._came_back.wait()
        except TimeoutError:
            return

    # health

    async def _watch(self) -> None:
        """Ask every replica for its health, again and again; runs until it is cancelled."""
        interval = self.model.balancing.health_interval_seconds
        while True:
            await asyncio.sleep(interval * random.uniform(0.9, 1.1))  # noqa: S311 - jitter
            try:
                await asyncio.gather(*(self._probe(replica) for replica in self.replicas))
            except Exception:  # at the top of a background task: a defect must not end the watch
                log.exception("a health probe failed", extra={"model": self.model.id})

    async def _probe(self, replica: Replica) -> None:
        is_well = await replica.client.is_ready()
        if is_well and replica.inspection.is_wanted:
            with contextlib.suppress(ApiError):  # who says that it is well may be slow to say more
                await replica.inspection.look(replica.client)
        replica.probed(_now(), is_well=is_well)
        self._look_around()

    def _wake(self) -> None:
        """Let those try again who wait for a replica."""
        self._came_back.set()
        self._came_back.clear()

    def _look_around(self) -> None:
        """Tell who waits, and whom it concerns, when another number of replicas is sound."""
        sound = sum(each.is_sound for each in self.replicas)
        if sound == self._sound:
            return
        now = _now()
        log.warning(
            "replicas of a model changed",
            extra={"model": self.model.id}
            | {"replicas": {each.name: each.state(now) for each in self.replicas}},
        )
        if sound > self._sound:
            self._wake()
        self._sound = sound
        self.notice(self)


def _request(call: Call) -> tuple[str, bytes, str]:
    return call.path, call.body, call.request_id


def _now() -> float:
    return asyncio.get_running_loop().time()
