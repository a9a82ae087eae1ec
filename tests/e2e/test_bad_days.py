"""Bad days of replicas, played by processes: what clients see, how soon, and that nothing leaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import bad_days
from tests.bad_days import BEFORE_THE_FIRST_EVENT, FREEZE, IN_A_STREAM, BadDay
from tests.local_stack import REPOSITORY
from tests.outcome import Outcome, ask
from tests.replicas import (
    Replica,
    RunningGateway,
    running_gateway,
    running_replicas,
    settled,
    until,
)

QUEUE_SECONDS = 1.0
SILENCE_SECONDS = 0.6
SECONDS = {
    "at once": 0.0,
    "`first_token_seconds`": SILENCE_SECONDS,
    "`idle_seconds`": SILENCE_SECONDS,
    "`queue_seconds`": QUEUE_SECONDS,
}
SLACK_SECONDS = 2.0
"""What a loaded machine may add, the client's own time among it."""

RESENDS = 1
TIMEOUTS = {
    "queue_seconds": QUEUE_SECONDS,
    "connect_seconds": 0.5,
    "first_token_seconds": SILENCE_SECONDS,
    "idle_seconds": SILENCE_SECONDS,
    "total_seconds": 10,
}
LEARNT_FROM_TRAFFIC = {"interval_seconds": 60}
"""No probe tells of a bad day before a request meets it."""


@dataclass
class Stack:
    """Replicas, a gateway in front of them and a client for it."""

    replicas: list[Replica]
    gateway: RunningGateway
    client: openai.AsyncOpenAI

    async def ask(self, model: str = "pair", *, stream: bool, **fields: Any) -> Outcome:
        return await ask(self.client, model, stream=stream, **fields)

    async def ask_and_get(self, model: str = "pair", *, stream: bool = False) -> Outcome:
        """Ask; it must be answered."""
        outcome = await self.ask(model, stream=stream)
        assert (outcome.status, outcome.code) == (200, None)
        assert outcome.is_complete
        return outcome

    async def retries(self, model: str) -> float:
        counted = await self.gateway.metrics()
        name = "llm_gateway_retries_total"
        return sum(value for key, value in counted.items() if key[0] == name and model in key)

    async def tries(self, outcome: Outcome) -> int:
        """How often engines were sent one request."""
        counts = [await replica.counts() for replica in self.replicas]
        return sum(count.request_ids.get(outcome.request_id, 0) for count in counts)

    async def is_used_again(self, replica: Replica, seconds: float) -> None:
        """Requests go on; within so many seconds one of them is answered by this replica."""
        before = (await replica.counts()).finished

        async def has_finished_one() -> bool:
            await self.ask_and_get()
            return (await replica.counts()).finished > before

        await until(has_finished_one, seconds, "the replica is used again")


@asynccontextmanager
async def stack(
    folder: Path,
    replicas: int = 2,
    *,
    models: Sequence[str] = ("pair",),
    slots: int = 0,
    **sections: Any,
) -> AsyncIterator[Stack]:
    """So many replicas; a model whose name begins with `one` has the first, others have all.

    At the end no request is left anywhere, and all replicas must be up for that to be seen.
    """
    common: dict[str, Any] = {"timeouts": TIMEOUTS, "health": LEARNT_FROM_TRAFFIC}
    async with running_replicas(replicas, slots=slots) as engines:
        shares = {name: engines[:1] if name.startswith("one") else engines for name in models}
        async with (
            running_gateway(folder, shares, **(common | sections)) as gateway,
            gateway.client() as client,
        ):
            yield Stack(engines, gateway, client)
            await settled(gateway, engines)


@pytest.mark.parametrize("day", BEFORE_THE_FIRST_EVENT, ids=str)
async def test_another_replica_answers(tmp_path: Path, day: BadDay) -> None:
    models = ("pair", "pair-streamed")
    async with stack(tmp_path, models=models) as running:
        bad, well = running.replicas
        await day.strikes(bad)
        asked = 0
        for model in models:
            while not await running.retries(model):
                assert asked < 40, "no request ever met the bad day"
                outcome = await running.ask_and_get(model, stream=model == "pair-streamed")
                assert outcome.seconds < SECONDS[day.elsewhere] + SLACK_SECONDS
                asked += 1
        counts = await well.counts()
        assert (counts.finished, counts.faulted, counts.cancelled) == (asked, 0, 0)
        await day.is_over(bad)
        assert all(count == 1 for count in (await bad.counts()).request_ids.values())


@pytest.mark.parametrize("day", BEFORE_THE_FIRST_EVENT, ids=str)
async def test_no_replica_answers(tmp_path: Path, day: BadDay) -> None:
    """With one replica, and with two that fail alike."""
    models = ("one", "one-streamed", "pair", "pair-streamed")
    async with stack(tmp_path, models=models) as running:
        for replica in running.replicas:
            await day.strikes(replica)
        outcomes = await asyncio.gather(
            *(running.ask(model, stream="streamed" in model) for model in models)
        )
        for outcome in outcomes:
            assert (outcome.status, outcome.code) == (day.status, day.code)
            waits = 1 if day.wait == "`queue_seconds`" else 1 + RESENDS
            assert outcome.seconds < waits * SECONDS[day.wait] + SLACK_SECONDS
            assert (outcome.retry_after is not None) == (day.status == 503)
        for replica in running.replicas:
            await day.is_over(replica)
        if day.status != 503:  # who was refused may be tried as long as the request waits
            assert all([await running.tries(outcome) <= 1 + RESENDS for outcome in outcomes])

        async def all_are_answered() -> bool:
            again = [await running.ask(model, stream="streamed" in model) for model in models]
            return all(outcome.is_complete for outcome in again)

        await until(all_are_answered, 8, "once the bad day is over, all is well")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("day", IN_A_STREAM, ids=str)
async def test_an_answer_breaks_off(tmp_path: Path, day: BadDay, stream: bool) -> None:
    """However many replicas there are: what a client has begun to read cannot be asked again."""
    async with stack(tmp_path) as running:
        struck = running.replicas
        if not day.is_a_signal:
            for replica in struck:
                await day.strikes(replica)
        length: Any = {"tokens": 200, "pause": 0.02} if day.is_a_signal else {}
        asking = asyncio.create_task(running.ask(stream=stream, **length))
        if day.is_a_signal:
            struck = [await the_busy_one(running.replicas)]
            await asyncio.sleep(0.3)  # some events have come by then
            await day.strikes(struck[0])
        started = time.monotonic()
        outcome = await asking
        assert time.monotonic() - started < SECONDS[day.wait] + SLACK_SECONDS
        assert outcome.code == day.code
        assert outcome.has_begun is stream
        assert outcome.status == (200 if stream else day.status)
        assert outcome.pieces >= 2 if stream else not outcome.pieces
        for replica in struck:
            await day.is_over(replica)
        await running.ask_and_get(stream=stream)


async def the_busy_one(replicas: Sequence[Replica]) -> Replica:
    """The replica that answers a request now."""
    found: list[Replica] = []

    async def one_is_busy() -> bool:
        found[:] = [replica for replica in replicas if (await replica.counts()).running]
        return len(found) == 1

    await until(one_is_busy, 5, "one replica is busy")
    return found[0]


async def test_requests_that_wait_are_served_by_the_first_replica_that_is_back(
    tmp_path: Path,
) -> None:
    async with stack(tmp_path, timeouts=TIMEOUTS | {"queue_seconds": 8}) as running:
        first, second = running.replicas
        await first.kill()
        await second.kill()
        waiting = [asyncio.create_task(running.ask(stream=stream)) for stream in [True, False] * 4]
        await asyncio.sleep(1)
        assert not any(task.done() for task in waiting)
        assert sum((await running.gateway.in_flight()).values()) == 8
        leaving, staying = waiting[:2], waiting[2:]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        back = time.monotonic()
        await second.restart()
        assert all(outcome.is_complete for outcome in await asyncio.gather(*staying))
        assert (await second.counts()).asked == len(staying), "nothing was sent for who had left"
        assert time.monotonic() - back < 4
        await first.restart()


@pytest.mark.alone
async def test_a_slow_replica_gets_fewer_requests_than_fast_ones(tmp_path: Path) -> None:
    async with stack(tmp_path, 3, slots=4) as running:
        slow, *fast = running.replicas
        await slow.order(first_pause=0.3, pause=0.03)
        for replica in fast:
            await replica.order(first_pause=0.02)

        async def keep_asking() -> None:
            for number in range(20):
                await running.ask_and_get(stream=number % 2 == 0)

        await asyncio.gather(*(keep_asking() for _ in range(6)))
        counts = [(await replica.counts()).finished for replica in running.replicas]
        assert sum(counts) == 120
        assert 0 < counts[0] < min(counts[1:]) / 2


async def test_a_replica_that_fails_is_left_out_and_tried_again(tmp_path: Path) -> None:
    breaker = {"failures": 3, "open_seconds": 1, "max_open_seconds": 2}
    async with stack(tmp_path, breaker=breaker) as running:
        bad = running.replicas[0]
        await bad.order(fault="error_500")

        async def has_failed_thrice() -> bool:
            await running.ask_and_get()
            return (await bad.counts()).faulted == 3

        await until(has_failed_thrice, 5, "it has failed three times")
        opened = time.monotonic()
        while time.monotonic() - opened < 0.7:
            await running.ask_and_get()
        assert (await bad.counts()).faulted == 3, "it is left out"
        await asyncio.sleep(0.5)
        for _ in range(20):
            await running.ask_and_get()
        assert (await bad.counts()).faulted == 4, "one trial, and it is left out again"
        await bad.order()
        await running.is_used_again(bad, 6)


async def test_a_replica_that_asks_for_a_pause_gets_it(tmp_path: Path) -> None:
    async with stack(tmp_path) as running:
        busy = running.replicas[0]
        await busy.order(fault="error_429", retry_after=2, for_requests=1)
        while not (await busy.counts()).faulted:
            await running.ask_and_get()
        told = time.monotonic()
        finished = (await busy.counts()).finished
        while time.monotonic() - told < 1.5:
            await running.ask_and_get()
            assert (await busy.counts()).finished == finished, "not yet"
        await running.is_used_again(busy, 5)


@pytest.mark.parametrize("order", [{"health": "fails"}, {"health": "hangs"}, FREEZE], ids=str)
async def test_a_replica_that_looks_unwell_is_left_out(tmp_path: Path, order: Any) -> None:
    """Its health alone tells, before any request has met it."""
    day = BadDay("looks unwell", order, 200, "")
    async with stack(tmp_path, health={"interval_seconds": 0.2}) as running:
        ill, well = running.replicas
        await day.strikes(ill)
        await asyncio.sleep(3)  # two probes of a second at most
        for number in range(12):
            outcome = await running.ask_and_get(stream=number % 2 == 0)
            assert outcome.seconds < SILENCE_SECONDS, "nobody waited for it"
        assert (await well.counts()).finished == 12
        assert await running.gateway.is_ready()
        await day.is_over(ill)
        await running.is_used_again(ill, 6)


def test_the_docs_show_these_tables() -> None:
    assert bad_days.markdown() in (REPOSITORY / "docs/bad-days.md").read_text(), (
        "python -m tests.bad_days prints the right ones"
    )
