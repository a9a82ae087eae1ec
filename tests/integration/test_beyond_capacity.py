"""Half, once, twice and four times what an engine can do: what is served, who waits, who is told.

The engine's pace is that of its sleeps, 20 answers a second, so that the machine has little to do.
A run in which the load tester itself was late says nothing of this, and is made again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from load_tests.samples import Sample
from tests.load_runs import Run, load
from tests.replicas import RunningGateway, running_gateway, running_replicas

pytestmark = pytest.mark.alone

SLOTS = 4
TOKENS = 2
PAUSE = 0.1
SERVICE_SECONDS = TOKENS * PAUSE
CAPACITY = SLOTS / SERVICE_SECONDS
QUEUE_SECONDS = 1.0
QUEUE_SIZE = 100
"""Five seconds' worth: it is the deadline that bounds the queue."""

TIMES = (0.5, 1.0, 2.0, 4.0)
SECONDS = 2.5
REQUESTS = 60
BACK = ("--requests", str(REQUESTS), "--retries", "3")
WARM_SECONDS = 0.5
SLACK_SECONDS = 0.5
MOST_LAG_MS = 100
"""A machine that holds everybody up for longer takes more of the goodput than we allow."""

MOST_RUNS = 3
INVALID = 3


@asynccontextmanager
async def gateway_of_known_capacity(folder: Path) -> AsyncIterator[RunningGateway]:
    async with running_replicas(1, slots=SLOTS) as (replica,):
        await replica.order(tokens=TOKENS, pause=PAUSE)
        async with running_gateway(
            folder,
            {},
            models=[{"id": "fake", "replicas": [replica.url], "slots": SLOTS}],
            timeouts={"queue_seconds": QUEUE_SECONDS},
            admission={"queue_size": QUEUE_SIZE},
        ) as gateway:
            yield gateway


async def measured(folder: Path, url: str, times: float, *options: str) -> Run:
    """Arrivals at so many times the capacity."""
    rate = ("--rate", str(times * CAPACITY), "--max-lag-ms", str(MOST_LAG_MS))
    for number in range(MOST_RUNS):
        out = folder / f"{times}-{number}"
        run = await load(url, out, "--scenario", "short", *rate, *options)
        if run.code != INVALID:
            break
    assert run.code == 0, run.output
    return run


def goodput(samples: list[Sample]) -> float:
    """Answers a second while requests come in. Counted in rounds of all slots: a full engine has
    each of them once in its service time, from wherever one begins to count.
    """
    ok = [sample.ended for sample in samples if sample.outcome == "ok"]
    ends = sorted(ended for ended in ok if WARM_SECONDS <= ended <= SECONDS)
    rounds = (len(ends) - 1) // SLOTS
    return rounds * SLOTS / (ends[rounds * SLOTS] - ends[0])


async def test_beyond_its_capacity_the_stack_does_what_it_can(tmp_path: Path) -> None:
    """The gateway learns from the first two runs how long an engine takes: till then it guesses."""
    runs = {}
    async with gateway_of_known_capacity(tmp_path) as gateway:
        for times in TIMES:
            if times == 2.0:
                back = await measured(tmp_path / "back", gateway.url, max(TIMES), *BACK)
            every = ("--duration", str(SECONDS))
            runs[times] = await measured(tmp_path, gateway.url, times, *every)
    served = {times: goodput(run.samples) for times, run in runs.items()}
    refused = {times: run.result.total.refused for times, run in runs.items()}
    print(f"answers a second {served}, refused {refused}")
    assert min(served[2.0], served[4.0]) >= 0.9 * max(served.values())
    assert refused[0.5] == 0 < refused[2.0] < refused[4.0]
    for sample in (sample for run in runs.values() for sample in run.samples):
        nobody_waits_beyond_the_deadline(sample)
    coming_back_when_told_succeeds(back)


def nobody_waits_beyond_the_deadline(sample: Sample) -> None:
    """One that the gateway gave to the engine as its surplus may wait there for a service more."""
    waited = sample.ended - sample.sent
    assert sample.stages["queue"] <= QUEUE_SECONDS + SLACK_SECONDS
    if sample.outcome == "ok":
        assert waited <= QUEUE_SECONDS + 2 * SERVICE_SECONDS + SLACK_SECONDS
    else:
        assert waited <= QUEUE_SECONDS + SLACK_SECONDS
        assert sample.error in ("429 overloaded", "503 queue_timeout")
        assert sample.retry_after is not None
        assert sample.retry_after > 0


def coming_back_when_told_succeeds(run: Run) -> None:
    total = run.result.total
    print(f"came again {total.retried}, of these refused again {total.retried_refused}")
    assert total.ok == REQUESTS
    assert total.refused == total.retried > 10
    assert total.retried_refused <= 0.05 * total.retried
    told = {
        (sample.number, sample.attempt + 1): sample.ended + sample.retry_after
        for sample in run.samples
        if sample.retry_after is not None
    }
    came = {
        (sample.number, sample.attempt): sample.sent for sample in run.samples if sample.attempt > 1
    }
    assert came.keys() == told.keys()
    assert all(came[which] >= told[which] - 0.001 for which in told)  # files have microseconds
