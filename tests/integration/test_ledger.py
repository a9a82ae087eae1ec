"""The ledger and a real PostgreSQL: batches, outages, rows that are refused, processes that die."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api_server.errors import DependencyDownError, RowsRefusedError
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.ledger.adopting import depth
from api_server.services.ledger.ledger import Ledger
from api_server.services.ledger.rows import Reading, RowIds, closed
from api_server.services.ledger.shipper import Shipper, months_of
from api_server.services.ledger.spool import Segment
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore
from tests.samples import samples
from tests.stores import PostgresServer, running_postgres

AT = 1_764_000_000_123_456
MONTHS = [date(2025, 11, 1)]


def record(number: int = 0, **told: object) -> RequestRecord:
    path = "/v1/chat/completions"
    made = RequestRecord(f"req_{number}", "POST", path, route=path)
    known = {"app_id": "app_1", "app": "shop", "model": "m", "status": 200}
    for name, value in (known | told).items():
        setattr(made, name, value)
    return made


def lines(count: int, at: int = AT, **told: Any) -> list[bytes]:
    ids = RowIds()
    return [closed(record(n, **told), ids.new(at), at).strip() for n in range(count)]


async def fetch(url: str, query: str, *values: object) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


async def count(url: str) -> int:
    return int((await fetch(url, "select count(*) from usage"))[0][0])


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[UsageStore]:
    postgres = Postgres(postgres_url)
    yield UsageStore(postgres)
    await postgres.aclose()


@asynccontextmanager
async def running_ledger(
    url: str, folder: Path, **options: Any
) -> AsyncIterator[tuple[Ledger, Metrics]]:
    postgres, metrics = Postgres(url), Metrics((), Numbers())
    ledger = Ledger(folder, UsageStore(postgres), metrics, **({"ship_seconds": 0.05} | options))
    await ledger.start()
    try:
        yield ledger, metrics
    finally:
        await ledger.aclose()
        await postgres.aclose()


async def eventually(url: str, rows: int, seconds: float = 15) -> None:
    """There are so many rows; never more."""
    deadline = time.monotonic() + seconds
    while (found := await count(url)) != rows:
        assert found < rows
        assert time.monotonic() < deadline, f"{found} of {rows} rows after {seconds} s"
        await asyncio.sleep(0.05)


def counted(metrics: Metrics, name: str) -> float:
    found = samples(metrics.render())
    return sum(n for key, n in found.items() if key[0] == f"llm_gateway_{name}")


async def test_a_row_is_stored_as_it_was_noted(store: UsageStore, postgres_url: str) -> None:
    told: dict[str, Any] = {
        "user": "ann",
        "replica": "http://a:1",
        "fallback_for": "other",
        "stream": True,
        "cache": "miss",
        "retries": 2,
        "outcome": "client_left",
        "finish_reason": "stop",
        "error_code": "engine_error",
        "prompt_tokens": 3,
        "cached_tokens": 1,
        "completion_tokens": 5,
        "tokens_estimated": True,
        "queue_ms": 0.5,
        "engine_ms": 1.5,
        "first_token_ms": 2.5,
        "own_ms": 0.25,
    }
    await store.insert(lines(1, **told), MONTHS)
    (row,) = await fetch(postgres_url, "select * from usage")
    found = dict(row)
    assert found.pop("at") == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=AT)
    assert found.pop("id").version == 7
    assert found.pop("total_ms") >= 0
    expected = told | {"app_id": "app_1", "app": "shop", "model": "m", "status": 200}
    expected |= {"request_id": "req_0", "route": "/v1/chat/completions"}
    expected["end_user"] = expected.pop("user")
    expected["is_stream"] = expected.pop("stream")
    expected["is_estimate"] = expected.pop("tokens_estimated")
    assert found == expected


async def test_what_is_sent_twice_is_one_row(store: UsageStore, postgres_url: str) -> None:
    rows = lines(1000)
    await store.insert(rows[:600], MONTHS)
    await store.insert(rows, MONTHS)
    await store.insert(rows + rows, MONTHS)
    assert await count(postgres_url) == 1000


async def test_months_are_made_and_old_ones_dropped(store: UsageStore, postgres_url: str) -> None:
    when = datetime(2025, 1, 31, 23, 59, 59, tzinfo=UTC)
    times = [int((when + timedelta(days=days)).timestamp() * 1e6) for days in (0, 31, 364)]
    rows = [line for at in times for line in lines(1, at)]
    months = months_of(times, date(2026, 12, 31))
    assert months == [date(2025, 1, 1), date(2025, 3, 1), date(2026, 1, 1), date(2027, 1, 1)]
    stores = [store] * 4  # at the same time, as several gateways do
    await asyncio.gather(*(each.insert(rows, months) for each in stores))
    partitions = "select inhrelid::regclass::text from pg_inherits join pg_class on oid = inhrelid"
    partitions += " where inhparent = 'usage'::regclass order by 1"
    names = [row[0] for row in await fetch(postgres_url, partitions)]
    assert names == ["usage_2025_01", "usage_2025_03", "usage_2026_01", "usage_2027_01"]
    assert await store.drop_before(datetime(2025, 1, 31, 23, tzinfo=UTC)) == 0
    assert await store.drop_before(datetime(2025, 4, 1, tzinfo=UTC)) == 2
    assert await count(postgres_url) == 1
    await store.insert(rows, months)
    assert await count(postgres_url) == 3


async def test_a_row_that_is_refused_does_not_hold_up_others(
    store: UsageStore, postgres_url: str, tmp_path: Path
) -> None:
    rows = lines(300)
    bad = [rows[7].replace(b"req_7", rb"req\u0000"), rows[200].replace(b":200", b":99999999999")]
    with pytest.raises(RowsRefusedError):
        await store.insert(bad, MONTHS)
    path = tmp_path / "1-300.rows"
    path.write_bytes(b"\n".join([*rows[:7], bad[0], *rows[8:200], bad[1], *rows[201:], b'{"kin']))
    metrics = Metrics((), Numbers())
    await Shipper(store, metrics, tmp_path / "refused").ship(Segment(path, 300))
    assert await count(postgres_url) == 298
    (parked,) = (tmp_path / "refused").iterdir()
    assert parked.read_bytes().splitlines() == bad
    assert not path.exists()
    assert counted(metrics, "ledger_shipped_total") == 298
    assert counted(metrics, "ledger_lost_total") == 3  # and one that was torn


async def test_without_its_table_nothing_is_refused(store: UsageStore, postgres_url: str) -> None:
    await fetch(postgres_url, "alter table usage rename to used")
    with pytest.raises(DependencyDownError):
        await store.insert(lines(1), MONTHS)


async def test_rows_arrive_within_seconds(postgres_url: str, tmp_path: Path) -> None:
    async with running_ledger(postgres_url, tmp_path) as (ledger, metrics):
        records = [record(n) for n in range(2500)]
        for each in records:
            ledger.open(each)
        for each in records[:2400]:
            ledger.close(each)
        await eventually(postgres_url, 2400)
        for each in records[2400:]:
            ledger.close(each)
        await eventually(postgres_url, 2500)
        assert counted(metrics, "ledger_shipped_total") == 2500
        assert counted(metrics, "ledger_lost_total") == 0
    assert counted(metrics, "spool_rows") == 0
    assert list(tmp_path.iterdir()) == []
    ids = await fetch(postgres_url, "select count(distinct request_id) from usage")
    assert ids[0][0] == 2500


async def test_the_end_ships_what_is_there(postgres_url: str, tmp_path: Path) -> None:
    async with running_ledger(postgres_url, tmp_path, ship_seconds=60) as (ledger, _):
        await asyncio.sleep(0.2)
        ledger.close(record())
    assert await count(postgres_url) == 1


async def test_a_successor_ships_what_was_left(postgres_url: str, tmp_path: Path) -> None:
    async with running_ledger("postgresql://x@127.0.0.1:1/x", tmp_path) as (ledger, _):
        for number in range(50):
            ledger.close(record(number))
    assert depth(tmp_path).rows == 50
    async with running_ledger(postgres_url, tmp_path) as (_, metrics):
        await eventually(postgres_url, 50)
        assert counted(metrics, "ledger_lost_total") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_postgres() -> Iterator[tuple[PostgresServer, str]]:
    """A server that may be killed, and a database in it."""
    with running_postgres() as server, server.database() as url:
        yield server, url


@pytest.mark.parametrize("outage", ["killed", "paused"])
async def test_an_outage_loses_nothing_and_doubles_nothing(
    own_postgres: tuple[PostgresServer, str], tmp_path: Path, outage: str
) -> None:
    server, url = own_postgres
    async with running_ledger(url, tmp_path) as (ledger, metrics):
        written = 0
        deadline = time.monotonic() + 4
        slowest = 0.0
        while time.monotonic() < deadline:
            if written == 400:
                server.kill() if outage == "killed" else server.pause()
            began = time.perf_counter()
            for _ in range(20):
                one = record(written)
                ledger.open(one)
                ledger.close(one)
                written += 1
            slowest = max(slowest, time.perf_counter() - began)
            await asyncio.sleep(0.02)
        assert written > 1000
        assert slowest < 0.5
        assert counted(metrics, "spool_rows") > 500
        if outage == "killed":
            server.start()
            await asyncio.to_thread(server.wait)
        else:
            server.resume()
        await eventually(url, written, 30)
        assert counted(metrics, "ledger_lost_total") == 0


WRITER = """
import asyncio, sys
from pathlib import Path
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.ledger.ledger import Ledger
from api_server.stores.postgres import Postgres
from api_server.stores.usage import UsageStore

async def main(url, folder, name):
    ledger = Ledger(Path(folder), UsageStore(Postgres(url)), Metrics((), Numbers()),
                    ship_seconds=0.05)
    await ledger.start()
    number = 0
    while True:
        path = "/v1/chat/completions"
        records = [RequestRecord(f"{name}-{number + n}", "POST", path, route=path) for n in (0, 1)]
        for record in records:
            record.app_id, record.app, record.prompt_tokens = "app_1", "shop", 3
            ledger.open(record)
        print("open", records[1].request_id, flush=True)
        ledger.close(records[0])
        print("closed", records[0].request_id, flush=True)
        number += 2
        if number % 20 == 0:
            await asyncio.sleep(0.001)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_loses_no_request(postgres_url: str, tmp_path: Path) -> None:
    """Of each pair one request is closed; the others were open when their process was killed."""
    said: dict[str, set[str]] = {"open": set(), "closed": set()}
    spool = tmp_path / "spool"
    for name in range(4):
        output = tmp_path / f"{name}.txt"
        with output.open("wb") as file:
            argv = [sys.executable, "-c", WRITER, postgres_url, str(spool), str(name)]
            with subprocess.Popen(argv, stdout=file) as process:
                await asyncio.sleep(random.uniform(1.2, 1.8))
                process.kill()
        whole, _, _ = output.read_text().rpartition("\n")
        for line in whole.split("\n"):
            kind, _, request_id = line.partition(" ")
            said[kind].add(request_id)
    assert len(said["closed"]) > 1000
    async with running_ledger(postgres_url, spool):
        seconds = time.monotonic() + 30
        while depth(spool).rows:
            assert time.monotonic() < seconds
            await asyncio.sleep(0.05)
    rows = await fetch(postgres_url, "select request_id, outcome, prompt_tokens from usage")
    found = {row["request_id"]: row for row in rows}
    assert len(found) == len(rows), "a row is doubled"
    assert said["closed"] | said["open"] <= set(found), "a row is missing"
    assert len(found) <= len(said["closed"] | said["open"]) + 8
    assert {found[each]["outcome"] for each in said["closed"]} == {"ok"}
    assert {found[each]["outcome"] for each in said["open"]} == {"gateway_died"}
    assert {found[each]["prompt_tokens"] for each in said["open"]} == {None}


async def test_shipping_gives_the_loop_back(postgres_url: str, tmp_path: Path) -> None:
    """A backlog of 50,000 rows is shipped while others have their turn."""
    folder = tmp_path / "spool" / "1-1-old"
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    for number in range(20):
        rows = lines(2500)
        (folder / f"{number:08d}-2500.rows").write_bytes(b"\n".join(rows))
        reading = Reading()
        reading.take(rows)
        assert len(reading.rows) == 2500
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - began - 0.001)

    watching = asyncio.create_task(watch())
    async with running_ledger(postgres_url, tmp_path / "spool"):
        await eventually(postgres_url, 50_000, 60)
    watching.cancel()
    late.sort()
    assert late[int(len(late) * 0.99)] < 0.02
