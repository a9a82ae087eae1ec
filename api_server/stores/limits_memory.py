"""The same book as the scripts in `lua/limits_*.lua`, kept in memory: for one process, and for
tests that play many processes with a clock of their own. One contract test runs over both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from api_server.stores.limits import LIVES_SECONDS, SILENT_SECONDS, Answer, Ask, Beat, Granted
from api_server.stores.redis import BUDGET_SECONDS

PARTS = 400


@dataclass(slots=True)
class _Period:
    """Units by the part of the period in which they were granted."""

    buckets: dict[int, int] = field(default_factory=dict)

    def open(self, ask: Ask, now: float) -> None:
        first = int((now - ask.seconds - ask.life_seconds) // (ask.seconds / PARTS))
        self.buckets = {bucket: n for bucket, n in self.buckets.items() if bucket >= first and n}
        for bucket, units in ask.returns:
            there = self.buckets.get(bucket, 0)
            self.buckets[bucket] = there - min(units, there)
        for age, units in ask.used:
            bucket = int((now - age) // (ask.seconds / PARTS))
            if bucket >= first:
                self.buckets[bucket] = self.buckets.get(bucket, 0) + units

    def share(self, ask: Ask, since: float, here: int, processes: int) -> int:
        """What so many of the processes may still have, if the others use theirs since then."""
        first = since // (ask.seconds / PARTS)
        before = sum(n for bucket, n in self.buckets.items() if bucket < first)
        counted = sum(self.buckets.values())
        return (ask.limit - before) * here // processes - (counted - before)

    def frees(self, ask: Ask, now: float) -> list[tuple[float, int]]:
        width = ask.seconds / PARTS
        keeps = ask.seconds + ask.life_seconds - now
        return [((b + 1) * width + keeps, n) for b, n in sorted(self.buckets.items()) if n]


class MemoryLimits:
    """A `LimitStore` that is never away."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._periods: dict[str, _Period] = {}
        self._places: dict[str, dict[str, int]] = {}
        self._living: dict[str, float] = {}

    async def ask(
        self,
        process: str,
        limits: Sequence[Ask],
        requests: Sequence[Sequence[tuple[int, int]]],
        *,
        budget_seconds: float = BUDGET_SECONDS,  # noqa: ARG002 - nothing is waited for
    ) -> Answer:
        """See `LimitStore`."""
        now = self._clock()
        living = {name for name, until in self._living.items() if until >= now}
        free = [each.limit - self._counted(process, each, living, now) for each in limits]
        heard = {name: self._living[name] - LIVES_SECONDS for name in living - {process}}
        away = [at for at in heard.values() if at < now - SILENT_SECONDS]
        for at, each in enumerate(limits):
            if away and each.seconds:
                period = self._periods[each.key]
                here = len(living) - len(away)
                free[at] = min(free[at], period.share(each, min(away), here, len(living)))
        granted = [0] * len(limits)
        refused_by = []
        for request in requests:
            refused = next((at for at, units in request if free[at] < units), None)
            refused_by.append(refused)
            for at, units in request if refused is None else ():
                free[at] -= units
                granted[at] += units
        answers = []
        for at, each in enumerate(limits):
            if at not in refused_by:
                granted[at] += max(0, min(each.extra, free[at] // (2 * max(1, len(living)))))
            is_asked = each.tells or at in refused_by
            answers.append(self._grant(process, each, granted[at], now, tells=is_asked))
        return Answer(answers, refused_by)

    async def beat(
        self,
        process: str,
        since_seconds: float,
        *,
        joins: bool = True,
        budget_seconds: float,  # noqa: ARG002 - nothing is waited for
    ) -> Beat:
        """See `LimitStore`."""
        now = self._clock()
        self._living = {name: until for name, until in self._living.items() if until >= now}
        was_known = process in self._living
        if joins:
            self._living[process] = now + LIVES_SECONDS
        heard = [until - LIVES_SECONDS for until in self._living.values()]
        return Beat(
            sum(name < process for name in self._living),
            len(self._living),
            sum(at < now - since_seconds for at in heard),
            was_known,
            "memory",
        )

    async def leave(self, process: str) -> None:
        """See `LimitStore`."""
        self._living.pop(process, None)

    def _counted(self, process: str, ask: Ask, living: set[str], now: float) -> int:
        if ask.seconds:
            period = self._periods.setdefault(ask.key, _Period())
            period.open(ask, now)
            return sum(period.buckets.values())
        places = self._places.setdefault(ask.key, {})
        for name in set(places) - living - {process}:
            del places[name]
        places[process] = ask.in_use
        return sum(places.values())

    def _grant(self, process: str, ask: Ask, units: int, now: float, *, tells: bool) -> Granted:
        if not ask.seconds:
            self._places[ask.key][process] += units
            return Granted(0, units, sum(self._places[ask.key].values()))
        period = self._periods[ask.key]
        bucket = int(now // (ask.seconds / PARTS))
        period.buckets[bucket] = period.buckets.get(bucket, 0) + units
        counted = sum(period.buckets.values())
        return Granted(bucket, units, counted, period.frees(ask, now) if tells else ())
