"""What several gateway processes know together of the use of limits, in Redis.

Redis grants units; what a process does with them is `services/quotas`. Time is that of Redis.
`MemoryLimits` (limits_memory.py) does the same in one process.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from api_server.errors import DependencyDownError
from api_server.stores.redis import BUDGET_SECONDS, Redis

REGISTRY = "limits:processes"
EPOCH = "limits:epoch"
LIVES_SECONDS = 8.0
"""A process that was not heard of for so long is dead, and its places are free."""

SILENT_SECONDS = 3.0
"""One that was not heard of for so long, or whose call came too late, may be on its own."""

TOO_LATE_SECONDS = 0.1
"""What Redis reads so long after it was sent, it leaves: whoever asked was told otherwise."""


@dataclass(slots=True)
class Ask:
    """One limit in a call. `seconds` 0: places, held at the same time, instead of a period.

    `returns` are (bucket, units) of grants that were not used, `used` (seconds ago, units) without
    a grant. A process says anew each time how many places it has in use; the rest is given back.
    `extra` is what it would like on top of the requests, `tells` asks when units come free.
    """

    key: str
    limit: int
    seconds: int
    life_seconds: float
    returns: Sequence[tuple[int, int]] = ()
    used: Sequence[tuple[float, int]] = ()
    in_use: int = 0
    extra: int = 0
    tells: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """What a limit gave, out of which bucket; `counted` units count now, these among them.

    `frees` are (in how many seconds, units), told of a limit that refused or was asked.
    """

    bucket: int
    units: int
    counted: int
    frees: Sequence[tuple[float, int]] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """For each limit what it gave; for each request the place of the limit that refused it."""

    limits: Sequence[Granted]
    refused_by: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process hears of the others.

    `index` is its place among the `processes` that live; `unheard` of them were not heard of since
    since then. `was_known` says that nobody took it for dead, `epoch` changes when all
    that was counted is lost.
    """

    index: int
    processes: int
    unheard: int
    was_known: bool
    epoch: str


class LimitStore(Protocol):
    """Raises `DependencyDownError` where it does not answer in time: in that case what was asked
    may have been done or not.
    """

    async def ask(
        self,
        process: str,
        limits: Sequence[Ask],
        requests: Sequence[Sequence[tuple[int, int]]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Answer:
        """Grant units: to each of `requests`, which are (place in `limits`, units), all that it
        needs or nothing. A grant counts for the period and its life from now on.
        """

    async def beat(
        self, process: str, since_seconds: float, *, joins: bool = True, budget_seconds: float
    ) -> Beat:
        """Say that the process lives, and hear of the others in the last `since_seconds`. Unless
        it `joins` it only asks.
        """

    async def leave(self, process: str) -> None:
        """The process ends: its places are free."""


class RedisLimits:
    """The limits that all processes share."""

    def __init__(self, redis: Redis) -> None:
        self._asking = redis.script("limits_ask")
        self._beating = redis.script("limits_beat")
        self._redis = redis
        self._epoch = ""
        self._ahead_us = 0
        """By how much Redis' clock is ahead of ours, at least; 0 as long as nobody knows."""

    async def ask(
        self,
        process: str,
        limits: Sequence[Ask],
        requests: Sequence[Sequence[tuple[int, int]]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Answer:
        """See `LimitStore`."""
        call = (
            process,
            self._deadline_us(budget_seconds),
            [_packed(each) for each in limits],
            [[number for at, units in each for number in (at + 1, units)] for each in requests],
        )
        reply = await self._asking.run(
            [REGISTRY, EPOCH, *(each.key for each in limits)],
            [
                msgspec.msgpack.encode(call),
                _us(LIVES_SECONDS),
                _us(SILENT_SECONDS),
                self._epoch,
            ],
            budget_seconds=budget_seconds,
        )
        now_us, processes, granted, refused = _REPLY.decode(reply)
        self._ahead_us = round(now_us) - _local_us()
        if not processes:
            raise DependencyDownError("redis")
        return Answer(
            [Granted(round(b), u, c, _pairs(frees)) for b, u, c, frees in granted],
            [None if place == 0 else place - 1 for place in refused],
        )

    async def beat(
        self, process: str, since_seconds: float, *, joins: bool = True, budget_seconds: float
    ) -> Beat:
        """See `LimitStore`."""
        arguments: list[str | int] = [process, _us(LIVES_SECONDS), _us(since_seconds)]
        arguments += [secrets.token_hex(8), int(joins)]  # never the same epoch twice
        arguments += [self._deadline_us(budget_seconds), _us(SILENT_SECONDS)]
        now_us, index, processes, unheard, was_known, epoch = await self._beating.run(
            [REGISTRY, EPOCH], arguments, budget_seconds=budget_seconds
        )
        self._ahead_us = now_us - _local_us()
        if not epoch:
            raise DependencyDownError("redis")
        self._epoch = epoch.decode()
        return Beat(index, processes, unheard, bool(was_known), self._epoch)

    def _deadline_us(self, budget_seconds: float) -> int:
        """In Redis' time: what it reads later, it leaves."""
        if not self._ahead_us:
            return 0
        return _local_us() + self._ahead_us + _us(budget_seconds + TOO_LATE_SECONDS)

    async def leave(self, process: str) -> None:
        """See `LimitStore`."""
        await self._redis.use(lambda client: client.zrem(REGISTRY, process))


_REPLY = msgspec.msgpack.Decoder(
    tuple[float, int, list[tuple[float, int, int, list[float]]], list[int]], strict=False
)


def _local_us() -> int:
    return _us(time.monotonic())


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _packed(ask: Ask) -> tuple[object, ...]:
    return (
        ask.limit,
        ask.seconds * 1_000_000,
        _us(ask.life_seconds),
        [number for pair in ask.returns for number in pair],
        [number for age, units in ask.used for number in (_us(age), units)],
        ask.in_use,
        ask.extra,
        int(ask.tells),
    )


def _pairs(numbers: Sequence[float]) -> list[tuple[float, int]]:
    """(in how many seconds, units)."""
    return [(us / 1e6, round(units)) for us, units in zip(numbers[::2], numbers[1::2], strict=True)]
