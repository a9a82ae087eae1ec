"""What the ledger costs a request: its line when it goes to a model, its line when it is over.

To a real file; nothing is shipped meanwhile.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.ledger.ledger import Ledger
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore
from benchmarks.figures import percentile

MOST_MICROSECONDS = 15
"""What both together may cost."""

HEADER = (
    "| under way | open us | close us | both us | 99th percentile | of the 15 us allowed |\n"
    "|---:|---:|---:|---:|---:|---:|"
)
ROUTE = "/v1/chat/completions"


def record() -> RequestRecord:
    """A chat as it stands at its end."""
    return RequestRecord(
        "req_0123456789abcdef0123456789abcdef",
        "POST",
        ROUTE,
        route=ROUTE,
        status=200,
        model="llama-3.3-8b-instruct",
        replica="http://10.0.0.1:8080",
        stream=True,
        queue_ms=0.012,
        engine_ms=31.25,
        own_ms=0.183,
        first_token_ms=31.47,
        app_id="app_0123456789abcdef",
        app="shop",
        user="user-1234",
        cached_tokens=12,
        prompt_tokens=48,
        completion_tokens=128,
        finish_reason="stop",
    )


async def measure(
    folder: Path, under_way: int, *, batches: int, requests: int
) -> tuple[list[float], list[float]]:
    """For each batch the microseconds of one request's `open` and `close`, while so many others
    are open.
    """
    store = UsageStore(Postgres("postgresql://nobody@127.0.0.1:1/none"))
    ledger = Ledger(folder, store, Metrics((), Numbers()), ship_seconds=3600)
    await ledger.start()
    await asyncio.sleep(0.1)
    for _ in range(under_way):
        ledger.open(record())
    opens, closes = [], []
    for _ in range(batches):
        records = [record() for _ in range(requests)]
        began = time.perf_counter()
        for each in records:
            ledger.open(each)
        between = time.perf_counter()
        for each in records:
            ledger.close(each)
        ended = time.perf_counter()
        opens.append((between - began) / requests * 1e6)
        closes.append((ended - between) / requests * 1e6)
    await ledger.aclose()
    return opens, closes


async def report(*, batches: int, requests: int) -> str:
    """A Markdown table of medians."""
    lines = [HEADER]
    for under_way in (0, 500):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            opens, closes = await measure(
                Path(folder), under_way, batches=batches, requests=requests
            )
        both = [one + other for one, other in zip(opens, closes, strict=True)]
        median = statistics.median(both)
        lines.append(
            f"| {under_way} | {statistics.median(opens):.1f} | {statistics.median(closes):.1f} | "
            f"{median:.1f} | {percentile(both, 99):.1f} | {median / MOST_MICROSECONDS:.2f} |"
        )
    return "\n".join(lines)
