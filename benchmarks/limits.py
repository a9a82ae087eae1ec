"""What limits cost a request: reserve, headers not counted, settle, release."""

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence

from api_server.errors import DependencyDownError, SetupError
from api_server.local.process import free_port
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import App, Caller, Policy
from api_server.services.quotas.quotas import Quotas
from api_server.stores.limits import Answer, Ask, RedisLimits
from api_server.stores.redis import BUDGET_SECONDS, Redis

HEADER = (
    "| limits | us | 99th percentile us | calls of Redis for 1,000 requests |\n|---|---:|---:|---:|"
)

POLICIES: tuple[tuple[str, Policy], ...] = (
    ("none", Policy()),
    ("one rate, from a grant", Policy(rate_limits=["100000000/day"])),
    (
        "rate, tokens, concurrent, from grants",
        Policy(
            rate_limits=["100000000/day"],
            tokens_per_minute=2_000_000_000,
            concurrent_requests=1000,
        ),
    ),
    ("one rate, a round trip each", Policy(rate_limits=["100000000/day"])),
)


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise SetupError("redis-server is not on this machine")
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


class _Counting(RedisLimits):
    calls = 0

    async def ask(
        self,
        process: str,
        limits: Sequence[Ask],
        requests: Sequence[Sequence[tuple[int, int]]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Answer:
        self.calls += 1
        return await super().ask(process, limits, requests, budget_seconds=budget_seconds)


async def report(*, batches: int, requests: int) -> str:
    """A Markdown table of medians over batches."""
    lines = [HEADER]
    with _redis() as url:
        redis = Redis(url)
        store = _Counting(redis)
        quotas = Quotas(store, Metrics([], Numbers()))
        while quotas.is_degraded:  # the server is starting
            await asyncio.sleep(0.1)
            with contextlib.suppress(DependencyDownError):
                await redis.use(lambda client: client.ping(), budget_seconds=1)
                await quotas.start()
        for name, policy in POLICIES:
            caller = Caller(App(f"app_{len(lines)}", "bench", policy))
            costs, before = [], store.calls
            for _ in range(batches):
                began = time.perf_counter()
                for _ in range(requests):
                    if name.endswith("each"):
                        for desk in quotas._desks.values():  # noqa: SLF001 - as if none were left
                            for lease in desk.all.values():
                                lease.left = 0
                    reservation = await quotas.reserve(caller, "m", 500)
                    reservation.settle(100)
                    reservation.release()
                costs.append((time.perf_counter() - began) / requests * 1e6)
                await asyncio.sleep(0)
            calls = (store.calls - before) / (batches * requests) * 1000
            worst = sorted(costs)[int(len(costs) * 0.99)]
            lines.append(f"| {name} | {statistics.median(costs):.1f} | {worst:.1f} | {calls:.1f} |")
        await quotas.aclose()
        await redis.aclose()
    return "\n".join(lines)
