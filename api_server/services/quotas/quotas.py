"""The limits of apps: requests per period, tokens per minute, requests at the same time.

Redis holds what all processes used; each process gets grants of several units from it and admits
from those, without a round trip. Where Redis is away, or there is none, each process enforces its
share alone. docs/decisions/0007 has the reasons, docs/limits.md what is promised.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence

from api_server.errors import DependencyDownError, InvalidRequestError, RateLimitedError
from api_server.observability.metrics import Metrics
from api_server.schemas.apps import App, Caller
from api_server.services.quotas.desk import AnyLease, Desk, RulesOf, has_all, take_all
from api_server.services.quotas.headers import duration, headers_of
from api_server.services.quotas.leases import Lease, Peers
from api_server.services.quotas.reservation import NOTHING, Held, Reservation
from api_server.services.quotas.rules import rules_of
from api_server.stores.limits import Beat, LimitStore

BEAT_SECONDS = 2.0
AWAY_BEAT_SECONDS = 0.25
"""Without Redis: it is asked so often whether it is back, when its breaker lets us."""

BEAT_BUDGET_SECONDS = 0.25
WAITS_FOR_OTHERS_SECONDS = 12.0
"""For so long a process that found Redis again waits for the others to report what they used."""

SURVEYED_AT_ONCE = 64
REMEMBERS_SECONDS = 600.0
"""For so long after its last request it is kept in mind how far an app has used its limits."""

log = logging.getLogger(__name__)


class Quotas:
    """Reserves what requests may use. One object for all requests of a process.

    `processes` are those of the gateway, `index` which of them this one is (None: not known, then
    what cannot be shared evenly is nobody's). Both count until Redis has told more. `notice` hears
    how many processes live whenever Redis tells. `rules_of` makes the rules of an app.
    """

    def __init__(
        self,
        redis: LimitStore | None,
        metrics: Metrics,
        processes: int = 1,
        *,
        index: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        rules_of: RulesOf = rules_of,
        notice: Callable[[int], None] | None = None,
    ) -> None:
        self._notice = notice
        self._store = redis
        self._metrics = metrics
        self._clock = clock
        self._rules_of = rules_of
        self._peers = Peers(processes, 0 if processes == 1 else index)
        self._process = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._desks: dict[str, Desk] = {}
        self._is_alone = True
        self._back_since: float | None = None
        self._epoch: str | None = None
        self._beat_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether Redis is configured and away, so that this process enforces its share alone."""
        return self._is_alone and self._store is not None

    async def start(self) -> None:
        """Register with Redis and begin to tell it that this process lives. Waits a moment only."""
        if self._store is None:
            return
        await self._beat()
        with contextlib.suppress(DependencyDownError):  # so that Redis knows the script
            await self._store.ask(self._process, [], [], budget_seconds=BEAT_BUDGET_SECONDS)
        self._task = asyncio.create_task(self._beats())

    async def aclose(self) -> None:
        """Give everything back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        for desk in self._desks.values():
            await desk.aclose()
        if self._store is not None and not self._is_alone:
            with contextlib.suppress(DependencyDownError):
                for desk in self._desks.values():
                    await desk.report(budget_seconds=BEAT_BUDGET_SECONDS)
                await self._store.leave(self._process)
        self._desks.clear()

    async def reserve(
        self, caller: Caller, model_id: str, tokens: int, *, requests: int = 1, places: int = 1
    ) -> Reservation:
        """Take what a request needs of its app's limits, all of it or nothing.

        `tokens` is the most that it will use, by estimate; `requests` and `places` are 0 for what
        was counted before, or is not under way yet. Raises `RateLimitedError` with a true
        Retry-After, and `InvalidRequestError` for a request that no waiting would help.
        """
        app = caller.app
        desk = self._desks.get(app.id)
        if desk is None or (desk.policy is not app.policy and desk.policy != app.policy):
            desk = self._open(app)
        leases = desk.by_model.get(model_id, desk.leases)
        if not leases:
            return NOTHING
        wanted = {"tokens": tokens, "requests": requests, "concurrent": places}
        if 0 in wanted.values():
            leases = tuple(lease for lease in leases if wanted[lease.rule.kind])
            if not leases:
                return NOTHING
        now = desk.used = self._clock()
        units = [wanted[lease.rule.kind] for lease in leases]
        if not self._is_alone and has_all(leases, units, now):
            return Held(desk, leases, units, take_all(leases, units), now)
        self._check_possible(leases, units)
        if self._is_alone:
            self._check_share(desk, leases, units, now)
        if self._is_alone and self._back_since is None:
            sources = [
                lease.take_alone(each, now) for lease, each in zip(leases, units, strict=True)
            ]
            return Held(desk, leases, units, sources, now)
        return await self._reserve_shared(desk, leases, units, now)

    async def _reserve_shared(
        self, desk: Desk, leases: Sequence[AnyLease], units: Sequence[int], now: float
    ) -> Reservation:
        """What Redis grants; until all others are back as well not more than this one's share."""
        for lease, each in zip(leases, units, strict=True):
            if each >= lease.refused_units and now < lease.refused_until:
                raise self._refusal(desk, leases, lease, each)
        was_alone = self._is_alone
        if was_alone:
            for lease, each in zip(leases, units, strict=True):
                lease.count_share(each, now)
        verdict = await desk.wait(leases, units)
        if isinstance(verdict, list):
            return Held(desk, leases, units, verdict, now)
        if was_alone:
            for lease, each in zip(leases, units, strict=True):
                lease.count_share(-each, now)
        if verdict is not None:
            raise self._refusal(desk, leases, verdict, units[leases.index(verdict)])
        now = self._clock()
        self._check_share(desk, leases, units, now)
        sources = [lease.take_alone(each, now) for lease, each in zip(leases, units, strict=True)]
        return Held(desk, leases, units, sources, now)

    def _check_share(
        self, desk: Desk, leases: Sequence[AnyLease], units: Sequence[int], now: float
    ) -> None:
        for lease, each in zip(leases, units, strict=True):
            if not lease.has_alone(each, now):
                raise self._refusal(desk, leases, lease, each)

    def _check_possible(self, leases: Sequence[AnyLease], units: Sequence[int]) -> None:
        for lease, each in zip(leases, units, strict=True):
            if each <= lease.rule.limit:
                continue
            if lease.rule.kind == "tokens":
                raise InvalidRequestError(
                    f"This request may use {each} tokens (its prompt and max_tokens), and your "
                    f"app's limit is {lease.rule.what}. Ask for a shorter answer or send less.",
                    param="max_tokens",
                )
            raise InvalidRequestError(
                f"These are {each} requests at once, and your app's limit is {lease.rule.what}. "
                "Send fewer at a time.",
                param="requests",
            )

    def _refusal(
        self, desk: Desk, leases: Sequence[AnyLease], lease: AnyLease, units: int
    ) -> RateLimitedError:
        now = desk.clock()
        self._metrics.limited(lease.rule.kind)
        seconds = lease.retry_after(units, now)
        headers = {name.decode(): value.decode() for name, value in headers_of(leases, now)}
        return RateLimitedError(
            f"Your app's limit is reached: {lease.rule.what}. Try again in {duration(seconds)}.",
            retry_after_seconds=seconds,
            headers=headers,
        )

    def _open(self, app: App) -> Desk:
        desk = self._desks.get(app.id)
        if desk is None:
            desk = self._desks[app.id] = Desk(
                app, self._rules_of, self._store, self._process, self._clock, self._went_down
            )
        else:
            desk.set_app(app, self._rules_of)
        if self._is_alone:
            desk.go_alone(self._clock(), self._peers)
        else:
            desk.rejoin(self._peers)
        return desk

    # --- Redis comes and goes

    def _went_down(self) -> None:
        if self._is_alone and self._back_since is None:
            return
        if not self._is_alone:
            log.warning("limits are enforced by each process alone: Redis does not answer")
            self._beat_now.set()
        self._is_alone, self._back_since = True, None
        now = self._clock()
        for desk in self._desks.values():
            desk.go_alone(now, self._peers)

    async def _beats(self) -> None:
        while True:
            seconds = AWAY_BEAT_SECONDS if self._is_alone else BEAT_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._beat_now.wait()
            self._beat_now.clear()
            try:
                await self._beat()
            except Exception:  # the top of a background task, which must go on
                log.exception("limits: the beat failed")
                self._went_down()

    async def _beat(self) -> None:
        """Report, and hear of the others; find out whether Redis is back."""
        assert self._store is not None
        now = self._clock()
        if self._is_alone and self._back_since is not None:
            since_back = now - self._back_since
        else:
            since_back = 0.0
        try:
            # Who was alone joins only when it has told what it used.
            beat = await self._tell_of_life(since_back, joins=not self._is_alone)
            if self._epoch not in (beat.epoch, None):
                self._lost_everything()
            if self._is_alone or self._epoch != beat.epoch or not beat.was_known:
                self._epoch = beat.epoch
                await self._report()
            if self._is_alone:
                beat = await self._tell_of_life(since_back, joins=True)
            self._heard(beat)
            await self._survey()
        except DependencyDownError:
            self._went_down()
        self._forget_idle()

    async def _tell_of_life(self, since_seconds: float, *, joins: bool) -> Beat:
        assert self._store is not None
        return await self._store.beat(
            self._process, since_seconds, joins=joins, budget_seconds=BEAT_BUDGET_SECONDS
        )

    def _lost_everything(self) -> None:
        log.warning("Redis has forgotten what was used; it is told of what was used here")
        for desk in self._desks.values():
            for lease in desk.all.values():
                lease.lost(self._clock())

    def _heard(self, beat: Beat) -> None:
        now = self._clock()
        if not self._is_alone:
            self._meet(beat)
            return
        if self._back_since is None:
            self._back_since = now
        is_first = not self._desks  # nothing was used here yet
        others_are_back = not beat.unheard and beat.processes >= self._peers.processes
        if is_first or others_are_back or now - self._back_since > WAITS_FOR_OTHERS_SECONDS:
            self._is_alone = False
            self._meet(beat)
            log.info("limits are shared: Redis answers")

    def _meet(self, beat: Beat) -> None:
        """The others are as many as the beat says."""
        self._peers = Peers(beat.processes, beat.index)
        for desk in self._desks.values():
            desk.rejoin(self._peers)
        if self._notice is not None:
            self._notice(beat.processes)

    async def _report(self) -> None:
        for desk in list(self._desks.values()):
            if desk.all:
                await desk.report(budget_seconds=BEAT_BUDGET_SECONDS)

    async def _survey(self) -> None:
        """Learn how far limits are used up that this process did not ask about lately."""
        assert self._store is not None
        old = self._clock() - BEAT_SECONDS / 20
        leases = [
            lease
            for desk in self._desks.values()
            for lease in desk.all.values()
            if isinstance(lease, Lease) and lease.seen < old
        ]
        leases = sorted(leases, key=lambda lease: lease.seen)[:SURVEYED_AT_ONCE]
        if not leases:
            return
        answer = await self._store.ask(
            self._process,
            [lease.survey(self._clock()) for lease in leases],
            [],
            budget_seconds=BEAT_BUDGET_SECONDS,
        )
        now = self._clock()
        for lease, granted in zip(leases, answer.limits, strict=True):
            lease.look(granted, now)

    def _forget_idle(self) -> None:
        long_ago = self._clock() - REMEMBERS_SECONDS
        for app_id, desk in list(self._desks.items()):
            if desk.used < long_ago and desk.is_idle:
                del self._desks[app_id]
