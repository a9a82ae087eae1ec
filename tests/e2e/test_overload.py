"""Four times as many clients as the stack can hold: nobody waits too long, nothing is wasted.

One run is measured for all claims: rounds of as many clients as the engine has slots, which gives
the most that this machine can do, and of many more, which must not do less. The clients are the
official ones, with their own retries.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.engine_probe import EngineProbe
from tests.local_stack import LocalStack, changed_stack_file, local_stack
from tests.wire import assert_valid

pytestmark = pytest.mark.alone

SLOTS = 2
SURPLUS = 1
QUEUE_SIZE = 4
QUEUE_SECONDS = 2.0
CLIENTS = 4 * (SLOTS + SURPLUS + QUEUE_SIZE)
"""Four times what the engine and the queue hold together."""

FEWEST_ROUNDS, MOST_ROUNDS = 2, 4
ROUND_SECONDS = 4.0
SLACK_SECONDS = 1.0
REQUEST: Any = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 350,
    "extra_body": {"ignore_eos": True},
}


@dataclass(frozen=True)
class Attempt:
    """One HTTP request, whoever sent it: a first one or a retry."""

    seconds: float
    status: int
    headers: dict[str, str]
    is_retry: bool


@dataclass
class Measured:
    """What one run saw."""

    attempts: list[Attempt] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)
    crowded: list[float] = field(default_factory=list)
    calm_seconds: list[float] = field(default_factory=list)
    served: int = 0
    served_after_refusal: int = 0
    given_up: int = 0
    most_in_engine: float = 0
    most_busy_slots: int = 0
    looks: int = 0

    @property
    def refusals(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.status != 200]

    @property
    def has_lost_nothing(self) -> bool:
        """The best round of each kind: the machine's other work takes from both, now and then."""
        return max(self.crowded) >= 0.9 * max(self.calm)

    @property
    def is_enough(self) -> bool:
        """Whether another round could say nothing new."""
        return len(self.crowded) >= FEWEST_ROUNDS and self.served > 50 and self.has_lost_nothing


class Load:
    """Keeps a number of clients busy, each with one request after the other."""

    def __init__(self, client: openai.AsyncOpenAI, measured: Measured) -> None:
        self._client = client
        self._measured = measured
        self._finished: list[float] = []

    async def round(self, clients: int) -> float:
        """Answers per second while so many are at it; waits for the last of them at the end."""
        begun = time.monotonic()
        end = begun + ROUND_SECONDS
        self._finished.clear()
        await asyncio.gather(*(self._one_client(end) for _ in range(clients)))
        return sum(finished <= end for finished in self._finished) / ROUND_SECONDS

    async def _one_client(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                answer = await self._client.chat.completions.with_raw_response.create(**REQUEST)
            except openai.APIStatusError:
                self._measured.given_up += 1
                continue
            self._finished.append(time.monotonic())
            self._measured.served += 1
            self._measured.served_after_refusal += answer.retries_taken > 0


@asynccontextmanager
async def noting_client(stack: LocalStack, measured: Measured) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client with its own number of retries; every attempt is noted."""
    begun: dict[int, float] = {}

    async def note_request(request: Any) -> None:
        begun[id(request)] = time.monotonic()

    async def note_response(response: Any) -> None:
        await response.aread()
        measured.attempts.append(
            Attempt(
                seconds=time.monotonic() - begun.pop(id(response.request)),
                status=response.status_code,
                headers=dict(response.headers),
                is_retry=response.request.headers["x-stainless-retry-count"] != "0",
            )
        )

    hooks: Any = {"request": [note_request], "response": [note_response]}
    async with openai.AsyncOpenAI(
        base_url=f"{stack.url}/v1",
        api_key="none",
        http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks),
    ) as client:
        yield client


async def look_at_engine(engine: EngineProbe, measured: Measured) -> None:
    """As often as it does not disturb."""
    async with httpx.AsyncClient(base_url=engine.url, headers=engine.client.headers) as client:
        while True:
            slots = (await client.get("/slots")).json()
            busy = sum(slot["is_processing"] for slot in slots)
            lines = (await client.get("/metrics")).text.splitlines()
            values = dict(line.split() for line in lines if not line.startswith("#"))
            inside = sum(
                float(values[f"llamacpp:requests_{w}"]) for w in ("processing", "deferred")
            )
            measured.most_busy_slots = max(measured.most_busy_slots, busy)
            measured.most_in_engine = max(measured.most_in_engine, inside)
            measured.looks += 1
            await asyncio.sleep(0.05)


async def measure(stack: LocalStack) -> Measured:
    warm_up, measured = Measured(), Measured()
    async with noting_client(stack, warm_up) as client:
        await Load(client, warm_up).round(SLOTS)
    with EngineProbe(stack) as engine:
        looking = asyncio.create_task(look_at_engine(engine, measured))
        for _ in range(MOST_ROUNDS):
            calm = Measured()
            async with noting_client(stack, calm) as client:
                measured.calm.append(await Load(client, calm).round(SLOTS))
            assert not calm.refusals
            measured.calm_seconds += [attempt.seconds for attempt in calm.attempts]
            async with noting_client(stack, measured) as client:
                measured.crowded.append(await Load(client, measured).round(CLIENTS))
            if measured.is_enough:
                break
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
    return measured


@pytest.fixture(scope="module")
def small(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of its own with a short queue; the session's came up, so the engine is built."""
    assert stack.is_ready()
    folder: Path = tmp_path_factory.mktemp("small")
    config = changed_stack_file(
        folder,
        timeouts={"queue_seconds": QUEUE_SECONDS},
        admission={"surplus": SURPLUS, "queue_size": QUEUE_SIZE},
        local={"slots": SLOTS},
    )
    with local_stack(folder / "data", STACK_CONFIG=config) as running:
        running.wait_ready(30)
        yield running


@pytest.fixture(scope="module")
def measured(small: LocalStack) -> Measured:
    found = asyncio.run(measure(small))
    waits = sorted(attempt.seconds for attempt in found.attempts if attempt.status == 200)
    retries = [attempt.status == 200 for attempt in found.attempts if attempt.is_retry]
    told = [float(refusal.headers.get("retry-after-ms", "nan")) for refusal in found.refusals]
    print(
        f"\nanswers/s with {SLOTS} clients {[round(x, 1) for x in found.calm]}, with {CLIENTS} "
        f"{[round(x, 1) for x in found.crowded]}; served {found.served}, of these after a refusal "
        f"{found.served_after_refusal}, given up {found.given_up}; attempts {len(found.attempts)}, "
        f"refused {len(found.refusals)}; of {len(retries)} single retries {sum(retries)} were "
        f"served; seconds of an answer p50 {waits[len(waits) // 2]:.2f}, "
        f"max {waits[-1]:.2f} (calm: max {max(found.calm_seconds):.2f}); "
        f"told to come back after {min(told):.0f} to {max(told):.0f} ms; "
        f"most in the engine {found.most_in_engine:.0f} in {found.looks} looks"
    )
    return found


def test_it_was_an_overload(measured: Measured) -> None:
    assert measured.served > 50
    assert len(measured.refusals) > CLIENTS


def test_no_request_waits_longer_than_its_deadline(measured: Measured) -> None:
    for attempt in measured.attempts:
        if attempt.status == 200:
            assert attempt.seconds <= QUEUE_SECONDS + max(measured.calm_seconds) + SLACK_SECONDS
        else:
            assert attempt.seconds <= QUEUE_SECONDS + SLACK_SECONDS


def test_each_refusal_says_when_to_come_back(measured: Measured) -> None:
    for refusal in measured.refusals:
        assert refusal.status in (429, 503)
        assert refusal.headers["content-type"] == "application/json"
        seconds, milliseconds = refusal.headers["retry-after"], refusal.headers["retry-after-ms"]
        assert seconds.isdigit()
        assert int(seconds) >= 1
        assert float(milliseconds) > 0
        assert int(seconds) * 1000 >= float(milliseconds), "the rounded one is no promise broken"


def test_coming_back_as_told_succeeds(measured: Measured) -> None:
    came_back = measured.served_after_refusal + measured.given_up
    assert came_back >= CLIENTS
    assert measured.served_after_refusal / came_back >= 0.95


def test_goodput_stays_at_its_maximum(measured: Measured) -> None:
    assert measured.has_lost_nothing, (measured.calm, measured.crowded)


def test_the_engine_never_holds_more_than_its_slots_and_the_surplus(measured: Measured) -> None:
    assert measured.looks > 50
    assert measured.most_busy_slots == SLOTS
    assert SLOTS <= measured.most_in_engine <= SLOTS + SURPLUS


def test_a_refusal_is_quick_and_wears_the_envelope(small: LocalStack) -> None:
    async def run() -> list[tuple[float, httpx.Response]]:
        body = {key: value for key, value in REQUEST.items() if key != "extra_body"}
        body |= {"ignore_eos": True, "max_tokens": 1900, "stream": True}
        answers = []

        async def one(client: httpx.AsyncClient) -> None:
            begun = time.monotonic()
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    answers.append((time.monotonic() - begun, response))

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=small.url, timeout=30, limits=limits) as client:
            await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
        return answers

    refused = asyncio.run(run())
    at_once = [response for seconds, response in refused if seconds < QUEUE_SECONDS / 2]
    assert len(at_once) >= CLIENTS - SLOTS - SURPLUS - QUEUE_SIZE
    for response in at_once:
        assert response.status_code == 429
        assert_valid("ErrorResponse", response.json())
        assert response.json()["error"]["code"] == "overloaded"
