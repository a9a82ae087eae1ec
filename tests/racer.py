"""A process with racing clients of one app: `python -m tests.racer JSON`, for the tests of limits.

Ends after its time, or at a SIGTERM. Prints a line for each thing that happened: its kind, when
(the machine's monotonic clock, which all processes share), how long it took in seconds, what a
refusal told.
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass

from api_server.errors import RateLimitedError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import App, Caller, Policy, RateLimit
from api_server.services.quotas.quotas import Quotas
from api_server.services.quotas.rules import Rule, make_rules
from api_server.stores.limits import RedisLimits
from api_server.stores.redis import Redis


@dataclass(frozen=True)
class Race:
    """What each process does. A client holds what it got for `holds_seconds`."""

    url: str
    requests: int | None = None
    seconds: int = 1
    concurrent: int | None = None
    clients: int = 16
    lasts_seconds: float = 5.0
    holds_seconds: float = 0.0
    pause_seconds: float = 0.0
    index: int = 0
    processes: int = 4
    obeys: bool = True

    def argument(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class End:
    """When the race is over."""

    at: float

    def now(self) -> None:
        self.at = 0.0


async def client(quotas: Quotas, caller: Caller, race: Race, end: End) -> None:
    """Ask, hold, ask again; one that obeys comes back when it was told to."""
    while time.monotonic() < end.at:
        began = time.monotonic()
        try:
            reservation = await quotas.reserve(caller, "m", 1)
        except RateLimitedError as exc:
            told = exc.retry_after_seconds or 0.0
            print("refused", began, time.monotonic() - began, told, flush=True)
            await asyncio.sleep(min(told, end.at - began) if race.obeys else 0.02)
            continue
        now = time.monotonic()
        print("admitted", now, now - began, int(quotas.is_degraded), flush=True)
        try:
            await asyncio.sleep(race.holds_seconds + race.pause_seconds)
        finally:
            reservation.release()
            print("released", time.monotonic(), 0, 0, flush=True)


async def run(race: Race) -> None:
    def rules_of(app: App, model: str | None) -> list[Rule]:
        if model is not None:
            return []
        rates = [RateLimit(race.requests, race.seconds)] if race.requests else []
        return make_rules(app.id, None, rates, None, race.concurrent)

    redis = Redis(race.url)
    metrics = Metrics([], Numbers())
    quotas = Quotas(
        RedisLimits(redis), metrics, race.processes, index=race.index, rules_of=rules_of
    )
    await quotas.start()
    caller = Caller(App("app_race", "race", Policy()))
    print("ready", time.monotonic(), 0, 0, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    end = End(time.monotonic() + race.lasts_seconds)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.now)
    async with asyncio.TaskGroup() as group:
        for _ in range(race.clients):
            group.create_task(client(quotas, caller, race, end))
    await quotas.aclose()
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(run(Race(**json.loads(sys.argv[1]))))
