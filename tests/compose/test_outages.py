"""Each service killed, and each away for 20 s, while clients chat: docs/degradation.md."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.compose.apps import make_app
from tests.compose.conftest import Stack
from tests.compose.daemon import docker
from tests.compose.load import Load, Seen, ask, body, running_load
from tests.compose.watching import usage_count

pytestmark = pytest.mark.timeout(240)

LEAST_SECONDS = 15.0
"""Less shows nothing of an engine, for which requests wait 10 s."""
OUTAGE_SECONDS = max(LEAST_SECONDS, float(os.environ.get("OUTAGE_SECONDS", "20")))
RECOVERY_SECONDS = 60.0
QUEUE_SECONDS = 10.0
"""`timeouts.queue_seconds` of the stack file: how long a request waits for an engine."""

UNCONCERNED = ("qdrant", "minio", "prometheus", "grafana", "embeddings")
STORES = ("postgres", "redis")
KEPT_IN = {"qdrant", "objects"}
"""What answers may say then, also chats, which need neither."""

ALL = (*UNCONCERNED, *STORES, "llama-cpp", "api-server", "front")


@pytest.fixture(scope="module")
def jobs_app(stack: Stack) -> str:
    """The code of an app that may send jobs."""
    types = {"explain": {"prompt": "{request}", "model": "tiny", "max_tokens": 16}}
    return make_app(stack.project, "outages", request_types=types)["app_code"]


def send_job(stack: Stack, app_code: str) -> httpx.Response:
    """Whatever it is answered."""
    job = {"app_code": app_code, "request_type": "explain", "request": "What is the sea?"}
    return httpx.post(f"{stack.url}/ai_request", json=job, timeout=10)


def request(stack: Stack, method: str, path: str, **said: Any) -> httpx.Response:
    """Whatever it is answered."""
    headers = {"authorization": f"Bearer {stack.key}"}
    return httpx.request(method, stack.url + path, headers=headers, timeout=30, **said)


def send_file(stack: Stack) -> httpx.Response:
    told = {"files": {"file": ("a.txt", b"a")}, "data": {"purpose": "user_data"}}
    return request(stack, "POST", "/v1/files", **told)


class Outage:
    """Services that are away for a while, under load; what clients saw."""

    def __init__(self, stack: Stack, *services: str) -> None:
        self.stack = stack
        self.services = services
        self.load = Load()
        self.began = 0.0
        self.ended = 0.0
        self.meanwhile: list[httpx.Response] = []

    @property
    def during(self) -> list[Seen]:
        return self.load.between(self.began, self.ended)

    async def of(self, how: str, *ask_meanwhile: Callable[[], httpx.Response]) -> None:
        """Play it, wait until all is well again without anybody's help, and note what came."""
        project = self.stack.project
        containers = [project.containers(service)[0] for service in self.services]
        async with running_load(self.stack.url, self.stack.key) as self.load:
            await asyncio.sleep(1.5)
            self.began = time.monotonic()
            begin, end = {"pause": ("pause", "unpause"), "away": ("kill", "start")}[how]
            await asyncio.to_thread(docker, begin, *containers)
            try:
                await asyncio.sleep(OUTAGE_SECONDS / 2)
                for ask_one in ask_meanwhile:
                    self.meanwhile.append(await asyncio.to_thread(ask_one))
                await asyncio.sleep(OUTAGE_SECONDS / 2)
            finally:
                self.ended = time.monotonic()
                await asyncio.to_thread(docker, end, *containers)
            await self.recovery()

    async def recovery(self) -> None:
        """All services are healthy, and answer as ever."""
        project = self.stack.project
        await asyncio.to_thread(project.wait_healthy, *ALL, seconds=RECOVERY_SECONDS)
        await self.good_answers()

    async def good_answers(self) -> None:
        """Ten in a row that nothing is said of."""
        headers = {"authorization": f"Bearer {self.stack.key}"}
        url = self.stack.url
        async with (
            asyncio.timeout(RECOVERY_SECONDS),
            httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client,
        ):
            good = 0
            while good < 10:
                seen = await ask(client, body("Are you back?", stream=False, max_tokens=4))
                good = good + 1 if seen.is_served and not seen.degraded else 0
                await asyncio.sleep(0.05 if good else 0.3)


@pytest.mark.parametrize("service", ALL)
async def test_what_crashes_comes_back_alone(stack: Stack, service: str) -> None:
    project = stack.project
    container = project.containers(service)[0]
    before = project.state(container)["Pid"]
    async with running_load(stack.url, stack.key) as load:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(project.crash, container)
        await Outage(stack, service).good_answers()
    state = project.state(container)
    assert state["Running"]
    assert state["Pid"] != before
    if service in (*UNCONCERNED, *STORES):
        assert load.failed == []


async def test_all_are_well_after_their_crashes(stack: Stack) -> None:
    await Outage(stack).recovery()


@pytest.mark.parametrize("how", ["pause", "away"])
async def test_chat_knows_nothing_of_what_it_does_not_need(
    stack: Stack, client: openai.OpenAI, how: str
) -> None:
    """All of these together, for time; each by itself in the test above."""
    store = client.vector_stores.create().id
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("clock.txt", b"The clock is wound."), poll_interval_ms=200
    ).id
    text = f"/v1/vector_stores/{store}/files/{file}/content"
    outage = Outage(stack, *UNCONCERNED)
    await outage.of(
        how,
        lambda: send_file(stack),
        lambda: request(stack, "GET", text),
        lambda: request(stack, "POST", "/v1/threads", json={}),
    )
    assert outage.load.failed == []
    assert {each for said in outage.load.degraded for each in said.split(", ")} <= KEPT_IN
    assert len(outage.during) > OUTAGE_SECONDS
    *without, thread = outage.meanwhile
    for answer in without:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 1
    assert thread.status_code == 200
    assert send_file(stack).status_code == 200
    assert client.vector_stores.search(store, query="clock").data


@pytest.mark.parametrize("how", ["pause", "away"])
async def test_without_postgres_chat_goes_on_and_jobs_say_when_to_come_back(
    stack: Stack, jobs_app: str, how: str
) -> None:
    outage = Outage(stack, "postgres")
    before = await asyncio.to_thread(usage_count, stack.project)
    await outage.of(how, lambda: send_job(stack, jobs_app))
    assert outage.load.failed == []
    assert outage.load.degraded == {"postgres"}
    assert outage.meanwhile[0].status_code == 503
    assert int(outage.meanwhile[0].headers["retry-after"]) >= 1
    served = len(outage.load.seen)
    async with asyncio.timeout(60):  # what was written to the spool arrives
        while await asyncio.to_thread(usage_count, stack.project) < before + served:
            await asyncio.sleep(1)


@pytest.mark.parametrize("how", ["pause", "away"])
async def test_without_redis_chat_goes_on(stack: Stack, jobs_app: str, how: str) -> None:
    outage = Outage(stack, "redis")
    await outage.of(how, lambda: send_job(stack, jobs_app))
    assert outage.load.failed == []
    assert outage.load.degraded == {"redis"}
    assert outage.meanwhile[0].status_code == 200, "jobs need no Redis"


@pytest.mark.parametrize("how", ["pause", "away"])
async def test_without_the_engine_requests_wait_and_are_told_when_to_come_back(
    stack: Stack, how: str
) -> None:
    outage = Outage(stack, "llama-cpp")
    await outage.of(how)
    begun_in_time = [each for each in outage.during if each.began < outage.ended - QUEUE_SECONDS]
    assert begun_in_time
    for seen in outage.load.failed:
        assert seen.status in (200, 502, 503, 504), seen
        if seen.status == 503:
            assert int(seen.retry_after or 0) >= 1, seen
        if seen.status == 200:
            assert seen.is_stream, "cut after it had begun"
            assert '"error"' in seen.note, "and it says so"


@pytest.mark.parametrize("how", ["pause", "away"])
async def test_a_gateway_that_is_away_is_left_out(scaled: Stack, how: str) -> None:
    outage = Outage(scaled, "api-server")
    await outage.of(how)
    seen_as_away = outage.began + 6
    late = [each for each in outage.during if each.began > seen_as_away]
    assert late
    assert [each for each in late if not each.is_served or each.seconds > 5] == []
    assert len(outage.load.failed) <= 4, "no more than it worked on"


async def test_the_front_is_the_only_door_and_those_who_wait_are_let_in(stack: Stack) -> None:
    outage = Outage(stack, "front")
    await outage.of("pause")
    assert outage.load.failed == []
