"""A long thread: what it takes to add a message to it and to list a page, in the store.

PostgreSQL is on a core of its own with the defaults of `make local`; what is measured is what a
route waits for: the transaction with its lock, the queries of a page, with the network between.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from api_server.schemas.apps import ANYONE
from api_server.schemas.paging import Page
from api_server.services.assistants.resources import Resources
from api_server.services.assistants.room import no_runs
from api_server.services.assistants.seams import NoVectorStores
from api_server.services.assistants.threads import ThreadService
from api_server.stores.migrations import migrate
from api_server.stores.postgres import Connection, Postgres
from api_server.stores.threads import NewMessage, ThreadStore, insert_messages
from benchmarks.state import stores
from benchmarks.targets import Place

TEXT = "What is the number of this message? " * 10
MOST_MS = 5.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    messages: int = 10_000
    times: int = 500


QUICK = Size(messages=500, times=20)


async def report(place: Place, size: Size) -> str:
    """Measure; the figures in a few lines."""
    async with stores(place.harness, place.folder) as variables:
        url = variables["POSTGRES_URL"]
        await migrate(url)
        postgres = Postgres(url)
        try:
            return await _measure(postgres, size)
        finally:
            await postgres.aclose()


async def _measure(postgres: Postgres, size: Size) -> str:
    resources = Resources(NoVectorStores("Qdrant", "Vector stores are not measured here."))
    service = ThreadService(ThreadStore(postgres), resources, no_runs)
    thread_id: str = (await service.create(ANYONE, b"{}"))["id"]
    rows = [_message(thread_id, number) for number in range(size.messages)]
    for begin in range(0, len(rows), 1000):
        await postgres.transaction(partial(_insert, rows[begin : begin + 1000]))
    await postgres.execute("analyze messages")  # as the server does within a minute
    middle = rows[size.messages // 2].id
    body = f'{{"role": "user", "content": "{TEXT}"}}'.encode()
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "adding one": lambda: service.add_message(ANYONE, thread_id, body),
        "the newest page of 20": lambda: service.messages(ANYONE, thread_id, Page()),
        "a page of 20 from the middle": lambda: service.messages(
            ANYONE, thread_id, Page(after=middle)
        ),
        "a page of 100 from the middle, oldest first": lambda: service.messages(
            ANYONE, thread_id, Page(limit=100, order="asc", after=middle)
        ),
    }
    lines = [f"a thread of {size.messages} messages; at the median at most {MOST_MS} ms are meant:"]
    for name, ask in asks.items():
        lines.append(f"- {name}: {await _times(ask, size.times)}")
    return "\n".join(lines)


async def _insert(rows: Sequence[NewMessage], connection: Connection) -> None:
    await insert_messages(connection, rows)


async def _times(ask: Callable[[], Awaitable[object]], times: int) -> str:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    return f"median {statistics.median(took):.2f} ms, p99 {took[int(len(took) * 0.99)]:.2f} ms"


def _message(thread_id: str, number: int) -> NewMessage:
    return NewMessage(
        id=f"msg_{number}",
        thread_id=thread_id,
        app_id=ANYONE.app.id,
        role="user" if number % 2 == 0 else "assistant",
        content=f'[{{"type":"text","text":{{"value":"{TEXT}","annotations":[]}}}}]',
        attachments=None,
        metadata="{}",
    )
