"""The ledger adds up: 2,000 requests of every kind, three kill -9 of the gateway, 20 s without
PostgreSQL. The engines count for themselves, and so do the clients.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api_server.local.process import free_port
from tests.replicas import Replica, running_gateway, running_replicas
from tests.stores import PostgresServer, running_postgres

REQUESTS = 2000
CLIENTS = 24
PACE_SECONDS = 0.26
"""Between two requests of one client, so that they last for the whole of the trouble."""

LIVES_SECONDS = (6.0, 6.0, 6.0)
OUTAGE_AFTER_SECONDS = 4.0
OUTAGE_SECONDS = 20.0

FAULTS = (
    *("error_500", "close_in_stream", "error_event_in_stream", "garbage_in_stream"),
    *("end_without_done", "reset", "bad_value"),
)


@dataclass(frozen=True)
class Seen:
    """What a client saw of one request; `tokens` is how many it asked for."""

    request_id: str
    kind: str
    tokens: int
    status: int | None
    is_complete: bool


class Client:
    """Sends requests, one after the other; what finds no gateway is sent again as another one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._ids = itertools.count()
        self.seen: list[Seen] = []

    async def send(self, number: int) -> None:
        kind, body = request(number)
        while True:
            request_id = f"ledger-{number}-{next(self._ids)}"
            try:
                seen = await self._ask(request_id, kind, body)
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
                continue
            except httpx.TransportError:  # killed meanwhile: nobody knows how far it came
                seen = Seen(request_id, kind, body.get("tokens", 0), None, is_complete=False)
            self.seen.append(seen)
            return

    async def _ask(self, request_id: str, kind: str, body: dict[str, Any]) -> Seen:
        tokens = body.get("tokens", 0)
        headers = {"x-request-id": request_id}
        if kind == "impatient":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._http.post("/v1/chat/completions", json=body, headers=headers)
            return Seen(request_id, kind, tokens, None, is_complete=False)
        text = ""
        async with self._http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if kind == "leaves" and text.count("data: ") >= 2:
                    return Seen(request_id, kind, tokens, answer.status_code, is_complete=False)
        is_well = answer.status_code == 200 and "event: error" not in text
        is_complete = is_well and (text.endswith("data: [DONE]\n\n") or not body.get("stream"))
        return Seen(request_id, kind, tokens, answer.status_code, is_complete=is_complete)


def request(number: int) -> tuple[str, dict[str, Any]]:
    """The kind and the body of one request; plays of the fake engine are in the body."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "tokens": 1 + number % 7,
        "pause": 0.02,
        "stream": number % 2 == 0,
    }
    match number % 10:
        case 6:
            return "leaves", body | {"stream": True, "tokens": 50}
        case 7:
            fault, is_stream = FAULTS[number // 10 % len(FAULTS)], number % 20 == 7
            return "faulty", body | {"fault": fault, "tokens": 5, "stream": is_stream}
        case 8 if number % 20 == 8:
            return "impatient", body | {"stream": False, "first_pause": 0.5}
        case 9 if number % 20 == 9:
            return "unknown", body | {"model": "nobody"}
        case 9:
            return "malformed", {"model": "m", "stream": False}
    return ("stream" if body["stream"] else "plain"), body


async def load(client: Client) -> None:
    """All requests, by so many at a time."""
    numbers = iter(range(REQUESTS))

    async def work() -> None:
        for number in numbers:
            await client.send(number)
            await asyncio.sleep(PACE_SECONDS * random.uniform(0.5, 1.5))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(work())


async def interrupt(server: PostgresServer) -> None:
    """No database for a while."""
    await asyncio.sleep(OUTAGE_AFTER_SECONDS)
    server.kill()
    await asyncio.sleep(OUTAGE_SECONDS)
    server.start()


async def disturb(replica: Replica) -> None:
    """Now and then an engine drops some requests, which others answer then."""
    while True:
        await replica.order(fault="close_before_headers", for_requests=5)
        await asyncio.sleep(1)


@pytest.fixture
def own_postgres() -> Iterator[tuple[PostgresServer, str]]:
    """A server that may be killed, and a database in it."""
    with running_postgres() as server, server.database() as url:
        yield server, url


@pytest.mark.timeout(300)
async def test_the_ledger_adds_up(own_postgres: tuple[PostgresServer, str], tmp_path: Path) -> None:
    server, url = own_postgres
    port = free_port()
    variables = {"POSTGRES_URL": url, "DATA_DIR": str(tmp_path / "data")}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with (
        running_replicas(3) as replicas,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=20, limits=limits, verify=False
        ) as http,
    ):
        client = Client(http)
        tasks = [asyncio.create_task(each) for each in (load(client), interrupt(server))]
        disturbing = asyncio.create_task(disturb(replicas[0]))
        for seconds in LIVES_SECONDS:
            async with running_gateway(tmp_path, {"m": replicas}, port=port, variables=variables):
                await asyncio.sleep(seconds)
        async with running_gateway(
            tmp_path, {"m": replicas}, port=port, variables=variables
        ) as gateway:
            await asyncio.gather(*tasks)
            disturbing.cancel()
            counts = [await replica.counts() for replica in replicas]
            finished = {k: v for each in counts for k, v in each.finished_tokens.items()}
            reached = {request_id for each in counts for request_id in each.request_ids}
            answered = {seen.request_id for seen in client.seen if seen.status is not None}
            rows = await settled_rows(url, answered | reached)
            metrics = await gateway.metrics()
    check(rows, client.seen, finished)
    assert metrics[("llm_gateway_spool_rows",)] == 0
    assert not [
        key for key in metrics if key[0] == "llm_gateway_ledger_lost_total" and metrics[key]
    ]
    assert sum(each["retries"] > 0 and each["outcome"] == "ok" for each in rows) > 10


async def settled_rows(url: str, expected: set[str]) -> Sequence[asyncpg.Record]:
    """All rows, once those that must be there are and no more come."""
    connection = await asyncpg.connect(url)
    try:
        before = -1
        async with asyncio.timeout(30):
            while True:
                rows: list[asyncpg.Record] = await connection.fetch("select * from usage")
                missing = expected - {row["request_id"] for row in rows}
                if not missing and len(rows) == before:
                    return rows
                before = len(rows)
                await asyncio.sleep(2)
    except TimeoutError:
        pytest.fail(f"{len(missing)} rows are missing, among them {sorted(missing)[:5]}")
    finally:
        await connection.close()


def check(rows: Sequence[asyncpg.Record], seen: Sequence[Seen], finished: dict[str, int]) -> None:
    """Against what the clients saw and what the engines counted."""
    ids = Counter(row["request_id"] for row in rows)
    assert [each for each, times in ids.items() if times > 1] == [], "rows are doubled"
    by_id = {row["request_id"]: row for row in rows}
    assert len(seen) == REQUESTS
    kinds = Counter(each.kind for each in seen if each.is_complete)
    assert kinds["plain"] > 300
    assert kinds["stream"] > 300
    for each in seen:
        row = by_id.get(each.request_id)
        if each.is_complete:
            assert row is not None
            found = (row["outcome"], row["status"], row["is_estimate"], row["completion_tokens"])
            assert found == ("ok", 200, False, each.tokens), dict(row)
            assert row["prompt_tokens"] == 3
            assert row["app"] == "anyone"
        elif each.status is not None and each.status >= 400:
            assert row is not None
            assert (row["outcome"], row["status"]) == ("error", each.status), dict(row)
            assert row["error_code"]
        elif each.kind == "leaves" and row is not None and row["outcome"] == "client_left":
            assert row["is_estimate"]
            assert 2 <= row["completion_tokens"] <= 50
    outcomes = Counter((row["outcome"], row["is_estimate"]) for row in rows)
    assert outcomes["gateway_died", False] > 0
    assert outcomes["client_left", True] > 100
    assert outcomes["error_in_stream", True] > 10

    exact = {
        key: row["completion_tokens"]
        for key, row in by_id.items()
        if row["completion_tokens"] is not None and not row["is_estimate"]
    }
    # An engine that forgets [DONE] has said what it used, and has finished nothing.
    cut = {key for key in exact if by_id[key]["error_code"] == "engine_truncated"}
    assert cut
    completed = {key: tokens for key, tokens in exact.items() if key not in cut}
    assert completed == {key: tokens for key, tokens in finished.items() if key in exact}
    unheard = {by_id[key]["outcome"] for key in finished if key not in exact}
    assert unheard <= {"gateway_died", "client_left"}, "an engine's whole answer is not counted"
