"""Three gateways behind the front: limits, a gateway that dies, one after the other replaced."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.compose.apps import make_app
from tests.compose.conftest import GATEWAYS, Stack
from tests.compose.load import Load, ask, body, running_load
from tests.compose.project import Project
from tests.compose.watching import Engine

pytestmark = pytest.mark.timeout(400)

LIMIT = 60
RACERS = 24
RACE_SECONDS = 6.0
STREAMS = 200
RESTART_SECONDS = 300.0
NOTICE_SECONDS = 0.5
"""For a front on a busy machine to read that its connections to a gateway have ended."""


def test_each_of_three_gateways_is_asked_and_none_has_a_limit_of_its_own(scaled: Stack) -> None:
    app = make_app(scaled.project, "racers", rate_limits=[f"{LIMIT}/minute"])
    before = requests_logged(scaled.project)
    statuses = asyncio.run(race(scaled.url, app["key"]))
    assert set(statuses) == {200, 429}
    assert LIMIT * 0.97 <= statuses[200] <= LIMIT
    after = requests_logged(scaled.project)
    assert len(after) == GATEWAYS
    assert all(after[each] > before.get(each, 0) for each in after)


async def race(url: str, key: str) -> Counter[int]:
    """Clients ask as fast as they can, each on its own connections; how often each status came."""
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + RACE_SECONDS

    async def one(number: int) -> None:
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            while time.monotonic() < deadline:
                seen = await ask(client, body(f"Say {number}", stream=False, max_tokens=2))
                statuses[seen.status] += 1
                assert seen.status != 429 or seen.retry_after
                await asyncio.sleep(0.05)

    await asyncio.gather(*(one(number) for number in range(RACERS)))
    return statuses


def requests_logged(project: Project) -> dict[str, int]:
    """How many chats each gateway has written down."""
    counts = {}
    for container in project.containers("api-server"):
        said = project.run("docker", "logs", container).output
        counts[container] = said.count("/v1/chat/completions")
    return counts


async def test_of_three_gateways_one_that_is_killed_fails_its_own_streams_only(
    scaled: Stack,
) -> None:
    victim = scaled.project.containers("api-server")[0]
    async with running_load(scaled.url, scaled.key, clients=9) as load:
        await asyncio.sleep(3)
        await asyncio.to_thread(scaled.project.crash, victim)
        # What began until then may have been its own, or sent to it before the front knew.
        killed = time.monotonic() + NOTICE_SECONDS
        await asyncio.sleep(8)
    assert [each for each in load.failed if each.began > killed] == []
    assert len(load.failed) < 9
    await asyncio.to_thread(scaled.project.wait_healthy, "api-server")


async def test_a_rolling_restart_under_200_live_streams_fails_no_request(scaled: Stack) -> None:
    before = set(scaled.project.containers("api-server"))
    async with streaming(scaled) as load:
        await until_all_stream(scaled)
        make = ("make", "restart")
        await asyncio.to_thread(scaled.project.must, *make, seconds=RESTART_SECONDS)
    assert [f"{each.status} {each.note}" for each in load.failed] == []
    assert len(load.seen) >= STREAMS
    after = set(scaled.project.containers("api-server"))
    assert len(after) == GATEWAYS
    assert not before & after, "each gateway was replaced"
    scaled.project.wait_healthy("front", "api-server", "llama-cpp")


@asynccontextmanager
async def streaming(stack: Stack) -> AsyncIterator[Load]:
    """200 clients, each of which always has a stream of some seconds."""
    load = Load()
    is_over = asyncio.Event()
    headers = {"authorization": f"Bearer {stack.key}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        while not is_over.is_set():
            chat = body(f"Tell me of {number}.", stream=True, max_tokens=30, ignore_eos=True)
            seen = await ask(client, chat)
            load.seen.append(seen)
            if not seen.is_served:
                await asyncio.sleep(0.5)

    async with (
        httpx.AsyncClient(
            base_url=stack.url, headers=headers, timeout=120, limits=limits
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(STREAMS):
            group.create_task(one(client, number))
        try:
            yield load
        finally:
            is_over.set()


async def until_all_stream(stack: Stack) -> None:
    """Wait until the engine works on as many as there are clients, nearly."""
    with Engine(stack.project) as engine:
        async with asyncio.timeout(60):
            while await asyncio.to_thread(engine.busy_slots) < STREAMS * 0.8:
                await asyncio.sleep(0.2)
