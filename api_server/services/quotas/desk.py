"""One app's limits in this process, and its one way to the store: who finds too little waits here,
and all who wait are asked for in one call.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api_server.errors import DependencyDownError
from api_server.schemas.apps import App
from api_server.services.quotas.leases import Lease, Peers
from api_server.services.quotas.places import Places
from api_server.services.quotas.rules import Rule
from api_server.stores.limits import Answer, LimitStore
from api_server.stores.redis import BUDGET_SECONDS

AnyLease = Lease | Places
Sources = list[int]
"""Where units were taken from, for each lease."""

Verdict = Sources | AnyLease | None
"""What was taken; or the lease that has too little; or None, for the store did not answer."""

RulesOf = Callable[[App, str | None], Sequence[Rule]]

AT_ONCE = 128
"""Requests in one call: it holds up Redis for less than a millisecond."""

LOOKS_SECONDS = 0.05
"""After so long what was given back, or was not used, is brought to the store."""

STALLED_SECONDS = 0.01
"""When a time-out comes so late, the event loop did not turn."""

SHORTEST_BUDGET_SECONDS = 0.005

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that needs these units of these limits."""

    leases: Sequence[AnyLease]
    units: Sequence[int]
    since: float
    verdict: "asyncio.Future[Verdict]"


def has_all(leases: Sequence[AnyLease], units: Sequence[int], now: float) -> bool:
    """Whether each has enough."""
    return all(lease.has(each, now) for lease, each in zip(leases, units, strict=True))


def take_all(leases: Sequence[AnyLease], units: Sequence[int]) -> Sources:
    """Take what `has_all` said is there."""
    return [lease.take(each) for lease, each in zip(leases, units, strict=True)]


class Desk:
    """The leases of one app. `went_down` is called when the store does not answer."""

    def __init__(
        self,
        app: App,
        rules_of: RulesOf,
        store: LimitStore | None,
        process: str,
        clock: Callable[[], float],
        went_down: Callable[[], None],
    ) -> None:
        self.used = clock()
        self.all: dict[str, AnyLease] = {}
        self._store = store
        self._process = process
        self.clock = clock
        self._went_down = went_down
        self._waiting: deque[Waiter] = deque()
        self._turn = asyncio.Lock()
        self._is_alone = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.set_app(app, rules_of)

    def set_app(self, app: App, rules_of: RulesOf) -> None:
        """The limits are now these; what was used of those before stays counted."""
        self.policy = app.policy
        before = self.all
        self.all = {}
        self.leases = self._leases(rules_of(app, None), before)
        self.by_model = {
            model: self.leases + self._leases(rules_of(app, model), before)
            for model in app.policy.limits_by_model
        }

    def _leases(self, rules: Sequence[Rule], before: dict[str, AnyLease]) -> tuple[AnyLease, ...]:
        for rule in rules:
            lease = before.get(rule.key)
            if lease is None:
                lease = Lease(rule) if rule.seconds else Places(rule)
            lease.rule = rule
            self.all[rule.key] = lease
        return tuple(self.all[rule.key] for rule in rules)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if it is forgotten."""
        now = self.clock()
        is_busy = self._task is not None and not self._task.done()
        return not is_busy and all(lease.is_idle(now) for lease in self.all.values())

    async def wait(self, leases: Sequence[AnyLease], units: Sequence[int]) -> Verdict:
        """Take these units, for which the store must be asked first."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiter(leases, units, self.clock(), future))
        self._begin()
        try:
            return await future
        except asyncio.CancelledError:
            taken = future.result() if future.done() and not future.cancelled() else None
            if isinstance(taken, list):
                for lease, source, each in zip(leases, taken, units, strict=True):
                    lease.give_back(source, each, self.clock())
                    lease.release(each, 0.0)
            raise

    def look_soon(self, seconds: float = LOOKS_SECONDS) -> None:
        """Something was given back: bring it to the store in a moment, with what else there is."""
        if self._timer is None and self._store is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    async def report(self, *, budget_seconds: float) -> None:
        """Tell the store of everything now. Raises `DependencyDownError`."""
        await self._ask([], list(self.all.values()), budget_seconds)

    async def aclose(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._give_up()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
            self._task.add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._task = None
        if self._waiting:
            self._begin()

    def _look(self) -> None:
        self._timer = None
        if self._is_alone:
            return
        now = self.clock()
        has_news = False
        for lease in self.all.values():
            has_news = has_news or lease.has_news
            lease.expire(now)
            has_news = has_news or (isinstance(lease, Lease) and lease.has_news)
        if has_news:
            self._begin()
        elif any(lease.left for lease in self.all.values()):
            self.look_soon()

    async def _serve(self) -> None:
        is_first = True
        try:
            while self._waiting or is_first:
                is_first = False
                batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                await self._serve_batch(batch)
        except DependencyDownError:
            self._went_down()
        except Exception:  # the top of a background task: whoever waits must be told
            log.exception("limits could not be asked for")
            self._went_down()
        finally:
            self._give_up()
        if any(lease.left for lease in self.all.values()):
            self.look_soon()

    async def _serve_batch(self, batch: Sequence[Waiter]) -> None:
        news = [lease for lease in self.all.values() if lease.has_news]
        leases = list(dict.fromkeys([*(one for each in batch for one in each.leases), *news]))
        oldest = min((each.since for each in batch), default=self.clock())
        budget = BUDGET_SECONDS - (self.clock() - oldest)
        try:
            answer = await self._ask_patiently(batch, leases, max(budget, SHORTEST_BUDGET_SECONDS))
        except BaseException:
            self._waiting.extendleft(reversed(batch))  # so that they are told with the others
            raise
        now = self.clock()
        for each, place in zip(batch, answer.refused_by, strict=True):
            verdict: Verdict = None
            if place is not None:
                verdict = leases[place]
                verdict.refused(each.units[each.leases.index(verdict)], now)
            elif each.verdict.done():
                continue  # its client left; its units are for others
            elif has_all(each.leases, each.units, now):
                verdict = take_all(each.leases, each.units)
            elif now - each.since < BUDGET_SECONDS:  # the answer came after the grant's life
                self._waiting.append(each)
                continue
            else:
                self._went_down()  # as good as away
            if not each.verdict.done():
                each.verdict.set_result(verdict)

    async def _ask_patiently(
        self, batch: Sequence[Waiter], leases: Sequence[AnyLease], budget_seconds: float
    ) -> Answer:
        """Once more if it was this process that stood still: that says nothing of the store."""
        sent = self.clock()
        try:
            return await self._ask(batch, leases, budget_seconds)
        except DependencyDownError:
            if self.clock() - sent < budget_seconds + STALLED_SECONDS:
                raise
            return await self._ask(batch, leases, BUDGET_SECONDS)

    async def _ask(
        self, batch: Sequence[Waiter], leases: Sequence[AnyLease], budget_seconds: float
    ) -> Answer:
        async with self._turn:  # what is told of places must arrive in its order
            return await self._ask_now(batch, leases, budget_seconds)

    async def _ask_now(
        self, batch: Sequence[Waiter], leases: Sequence[AnyLease], budget_seconds: float
    ) -> Answer:
        assert self._store is not None
        places = {id(lease): place for place, lease in enumerate(leases)}
        requests = [
            [(places[id(one)], units) for one, units in zip(each.leases, each.units, strict=True)]
            for each in batch
        ]
        sent = self.clock()
        asks = [lease.ask(sent) for lease in leases]
        try:
            answer = await self._store.ask(
                self._process, asks, requests, budget_seconds=budget_seconds
            )
        except BaseException:
            for lease in leases:
                lease.failed()
            raise
        now = self.clock()
        for lease, granted in zip(leases, answer.limits, strict=True):
            lease.answered(granted, sent, now)
        return answer

    def _give_up(self) -> None:
        while self._waiting:
            verdict = self._waiting.popleft().verdict
            if not verdict.done():
                verdict.set_result(None)

    def go_alone(self, now: float, peers: Peers) -> None:
        """The store is away from now on."""
        self._is_alone = True
        for lease in self.all.values():
            lease.go_alone(now, peers)

    def rejoin(self, peers: Peers) -> None:
        """The store is back."""
        was_alone, self._is_alone = self._is_alone, False
        for lease in self.all.values():
            lease.rejoin(peers)
        if was_alone and self.all:
            self.look_soon()
