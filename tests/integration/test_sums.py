"""Who counts the same requests counts the same: `/metrics`, the ledger, and the load tester."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api_server.observability.metrics import ERROR_KINDS, OPERATIONS, ErrorKind, error_kind
from api_server.observability.record import RequestRecord
from load_tests.samples import Sample
from tests.access import CHAT, make_app
from tests.load_runs import PATIENT, Run, load
from tests.replicas import (
    Replica,
    RunningGateway,
    running_gateway,
    running_replicas,
    settled,
    until,
)

pytestmark = pytest.mark.alone

PACE = {"tokens": 20, "pause": 0.02, "cached": 2}
FAULTS = ("error_event_in_stream", "bad_value", "close_in_stream", "error_500")
EACH = 3
STRANGERS = 3
OPTIONS = (
    *("--scenario", "short=4,cancellers=2,embeddings,json", "--scale", "0.25"),
    *("--rate", "40", "--duration", "4"),
)
SHIP_SECONDS = 15
TOKENS = "gen_ai_client_token_usage_total"


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Counted:
    """What each of those who count has in the end."""

    metrics: Mapping[tuple[str, ...], float]
    ledger: list[Row]
    run: Run

    def total(self, name: str, *labels: str) -> int:
        """The sum of a counter's series that have all of these values of labels."""
        found = [
            value
            for key, value in self.metrics.items()
            if key[0] == name and set(labels) <= set(key[1:])
        ]
        assert found, f"{name} {labels} is not there"
        return int(sum(found))

    @property
    def probes(self) -> list[Row]:
        """The rows that the load tester did not measure."""
        measured = {sample.request_id for sample in self.run.samples}
        return [row for row in self.ledger if row["request_id"] not in measured]

    def pairs(self) -> Iterator[tuple[Sample, Row]]:
        """Each measured request with its row. Raises `KeyError` where there is none."""
        rows = {row["request_id"]: row for row in self.ledger}
        for sample in self.run.samples:
            yield sample, rows[sample.request_id]


async def count(workers: int, folder: Path, postgres_url: str) -> Counted:
    """One run of everything that can become of a request, with so many workers."""
    key = (await make_app(postgres_url)).key
    assert key is not None
    variables = {
        "ENVIRONMENT": "production",
        "AUTH": "on",
        "POSTGRES_URL": postgres_url,
        "ADMIN_API_KEY": "the-operator-alone-knows",
        "DATA_DIR": str(folder / "data"),
    }
    async with running_replicas(1, slots=8) as (replica,):
        served = {"replicas": [replica.url], "slots": 8}
        models = [{"id": "fake"} | served, {"id": "vectors", "serves": "embeddings"} | served]
        async with running_gateway(
            folder,
            {},
            models=models,
            variables=variables,
            admission={"queue_size": 8},
            breaker={"failures": 1000},
            retries={"resends": 0},
            gateway={"workers": workers},
        ) as gateway:
            await replica.order(**PACE)
            async with asyncio.TaskGroup() as group:
                group.create_task(misbehave(replica))
                run = await load(gateway.url, folder / "out", *OPTIONS, *PATIENT, key=key)
                assert run.code == 1, run.output  # there are errors
            await strangers(gateway.url)
            await settled(gateway, [replica])
            rows = await shipped(gateway, postgres_url, len(run.samples) + run.result.probes)
            return Counted(await gateway.metrics(), rows, run)


async def misbehave(replica: Replica) -> None:
    """One fault after the other, while it is asked."""
    asked = (await replica.counts()).asked

    async def is_under_way() -> bool:
        return (await replica.counts()).asked > asked + 5

    await until(is_under_way, 30, "the load begins")
    for fault in FAULTS:
        faulted = (await replica.counts()).faulted

        async def has_failed(before: int = faulted) -> bool:
            return (await replica.counts()).faulted >= before + EACH

        await replica.order(fault=fault, **PACE)
        await until(has_failed, 10, f"{fault} is met")
    await replica.order(**PACE)


async def strangers(url: str) -> None:
    """Nobody's requests."""
    async with httpx.AsyncClient(base_url=url) as http:
        for _ in range(STRANGERS):
            answer = await http.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 401


async def shipped(gateway: RunningGateway, url: str, least: int) -> list[Mapping[str, Any]]:
    """The ledger when all of it is in PostgreSQL."""

    async def all_are_there() -> bool:
        metrics = await gateway.metrics()
        waiting = metrics["llm_gateway_spool_rows",]
        return not waiting and metrics["llm_gateway_ledger_shipped_total",] >= least

    await until(all_are_there, SHIP_SECONDS, "the ledger is shipped")
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch("select * from usage")]
    finally:
        await connection.close()


@pytest.mark.parametrize("workers", [1, 4])
async def test_all_who_count_agree(workers: int, tmp_path: Path, postgres_url: str) -> None:
    counted = await count(workers, tmp_path, postgres_url)
    assert counted.metrics["llm_gateway_workers",] == workers
    everything_happened(counted)
    each_request_is_one_row(counted)
    counters_are_the_ledger(counted)
    tokens_are_the_same(counted)


def everything_happened(counted: Counted) -> None:
    """Else what follows says little."""
    total = counted.run.result.total
    assert total.ok > 20
    assert total.cancelled > 5
    assert total.refused > 5
    assert total.errors.keys() >= {"400 invalid_request", "502 engine_error", "answer is no JSON"}
    assert any(error.startswith("stream engine_") for error in total.errors)
    assert (
        total.count
        == len(counted.run.samples)
        == sum(row.count for row in counted.run.result.scenarios)
    )
    assert total.cached_tokens > 0


def each_request_is_one_row(counted: Counted) -> None:
    """The ledger and the load tester, request by request."""
    ids = Counter(row["request_id"] for row in counted.ledger)
    assert set(ids.values()) == {1}
    assert len(counted.probes) == counted.run.result.probes
    assert len(counted.ledger) == counted.run.result.total.count + counted.run.result.probes
    for sample, row in counted.pairs():
        assert row["status"] == sample.status
        if sample.outcome == "cancelled":
            # Who leaves does not see what became of the answer while it was on its way out.
            assert row["outcome"] in ("client_left", "ok", "error_in_stream")
        elif sample.error is None or sample.error == "answer is no JSON":
            assert row["outcome"] == "ok"  # the gateway gave what the engine said, word for word
        else:
            assert row["outcome"] == ("error_in_stream" if sample.status == 200 else "error")
            assert sample.error.endswith(f" {row['error_code']}")


def counters_are_the_ledger(counted: Counted) -> None:
    """A request that no app made is in the counters only."""
    requests = {
        key[1:]: value
        for key, value in counted.metrics.items()
        if key[0] == "llm_gateway_requests_total" and (key[2] in OPERATIONS or key[3] == "401")
    }
    rows = Counter((row["outcome"], row["route"], str(row["status"])) for row in counted.ledger)
    assert requests == rows + Counter({("error", "other", "401"): STRANGERS})

    kinds = Counter(kind for row in counted.ledger if (kind := kind_of(row)) is not None)
    assert {kind: counted.total("llm_gateway_errors_total", kind) for kind in ERROR_KINDS} == {
        kind: kinds[kind] for kind in ERROR_KINDS
    }
    left = sum(row["outcome"] == "client_left" for row in counted.ledger)
    assert counted.total("llm_gateway_cancelled_total") == left == kinds["left"]
    assert kinds["shed"] == counted.total("llm_gateway_shed_total")
    assert kinds["shed"] == counted.run.result.total.refused
    assert counted.total("llm_gateway_ledger_shipped_total") == len(counted.ledger)
    assert counted.total("llm_gateway_ledger_lost_total") == 0


def kind_of(row: Row) -> ErrorKind | None:
    record = RequestRecord(row["request_id"], "POST", row["route"])
    record.status, record.outcome = row["status"], row["outcome"]
    record.error_code = row["error_code"]
    return error_kind(record)


def tokens_are_the_same(counted: Counted) -> None:
    """What the gateway only guessed, where a client left or an engine broke off, the ledger has
    and the counters and the load tester have not.
    """
    unseen = list(counted.probes)
    for sample, row in counted.pairs():
        if sample.outcome == "cancelled":
            assert sample.prompt_tokens == 0
            unseen.append(row)
        elif row["outcome"] == "ok":
            assert not row["is_estimate"]
            assert used(row) == (
                sample.prompt_tokens,
                sample.cached_tokens,
                sample.completion_tokens,
            )
        else:
            # A plain answer is read as a stream too: an engine that broke off has worked for it.
            assert row["is_estimate"] == (row["first_token_ms"] is not None)
            assert row["is_estimate"] or row["outcome"] == "error"
            assert sample.prompt_tokens == sample.completion_tokens == 0
    total = counted.run.result.total
    tester = (total.prompt_tokens, total.cached_tokens, total.completion_tokens)
    metrics = (
        counted.total(TOKENS, "input"),
        counted.total("llm_gateway_cached_tokens_total"),
        counted.total(TOKENS, "output"),
    )
    assert metrics == summed(counted.ledger)
    assert metrics == tuple(map(sum, zip(tester, summed(unseen), strict=True)))


def used(row: Row) -> tuple[int, int, int]:
    return row["prompt_tokens"] or 0, row["cached_tokens"] or 0, row["completion_tokens"] or 0


def summed(rows: Iterable[Row]) -> tuple[int, ...]:
    """Of those in which an engine has counted."""
    counts = [used(row) for row in rows if not row["is_estimate"]]
    return tuple(map(sum, zip(*counts, strict=True)))
