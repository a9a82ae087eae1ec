"""What a place in an engine costs the books: gauges, counters, the pace of the queue."""

import asyncio
from typing import Any, cast

import pytest

from api_server.errors import OverloadedError, ResourceNotAvailableError
from api_server.inference.catalogue import Model
from api_server.inference.engines import LLAMA_SERVER
from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.services.admission import Gate
from api_server.services.lane import Lane, Place
from tests.samples import samples

PHASES = ("queued", "connecting", "generating")


class Books:
    """A lane of one place and no queue, and what is counted of it."""

    def __init__(self) -> None:
        model = Model(id="m", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1",))
        self.metrics = Metrics([model.id], Numbers())
        self.gate = Gate(1, 0)
        self.lane = Lane(model, cast("Any", None), self.gate, self.metrics)
        self.record = RequestRecord("id", "POST", "/v1/chat/completions")

    async def enter(self) -> Place:
        return await self.lane.enter(1, self.record, is_retry=False)

    def counted(self) -> dict[tuple[str, ...], float]:
        return samples(self.metrics.render())

    def phases(self) -> tuple[float, ...]:
        counted = self.counted()
        return tuple(counted["llm_gateway_in_flight", "m", phase] for phase in PHASES)


async def test_a_request_is_counted_in_the_phase_in_which_it_is() -> None:
    books = Books()
    place = await books.enter()
    assert books.phases() == (0, 1, 0)
    books.lane.answered(place)
    assert books.phases() == (0, 0, 1)
    books.lane.answered(place)
    assert books.phases() == (0, 0, 1), "a later part of the same request"
    books.lane.leave(place)
    assert books.phases() == (0, 0, 0)


async def test_one_who_is_sent_away_is_counted_and_leaves_no_trace() -> None:
    books = Books()
    place = await books.enter()
    with pytest.raises(OverloadedError):
        await books.enter()
    assert books.phases() == (0, 1, 0)
    assert books.counted()["llm_gateway_shed_total", "m", "overloaded"] == 1
    books.lane.leave(place)
    assert books.phases() == (0, 0, 0)


async def test_one_who_leaves_the_queue_leaves_no_trace() -> None:
    books = Books()
    books.gate.queue_size = 1
    place = await books.enter()
    waiting = asyncio.create_task(books.enter())
    await asyncio.sleep(0)
    assert books.phases() == (1, 1, 0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    books.lane.leave(place)
    assert books.phases() == (0, 0, 0)


async def test_further_attempts_are_counted_by_reason() -> None:
    books = Books()
    call = books.lane.call("/v1/chat/completions", b"{}", await books.enter(), books.record)
    for _ in range(2):
        call.on_retry(ResourceNotAvailableError("away"))
    assert books.record.retries == 2
    assert books.counted()["llm_gateway_retries_total", "m", "engine_unavailable"] == 2


async def test_an_engine_that_fails_quickly_does_not_count_as_a_quick_one() -> None:
    books = Books()
    before = books.gate.expected_wait_seconds()
    place = await books.enter()
    books.lane.leave(place)
    assert books.gate.expected_wait_seconds() == before
    place = await books.enter()
    books.lane.answered(place)
    books.lane.leave(place)
    assert books.gate.expected_wait_seconds() < before


async def test_only_who_waits_has_time_for_an_engine_that_is_away() -> None:
    books = Books()
    place = await books.enter()
    assert place.deadline > asyncio.get_running_loop().time()
    books.lane.leave(place)
    place = await books.lane.enter(1, books.record, is_retry=False, waits=False)
    assert place.deadline == 0
