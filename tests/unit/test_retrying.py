"""When an engine is tried again, and when not."""

import asyncio

import pytest

from api_server.errors import ApiError, InferenceError, NoAnswerError, ResourceNotAvailableError
from api_server.services.retrying import Backoff, persist

QUICK = Backoff(first_delay_seconds=0.001, max_delay_seconds=0.002)


class Engine:
    """Fails as told, then answers."""

    def __init__(self, *failures: ApiError) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


async def ask(engine: Engine, seconds: float = 1.0) -> list[ApiError]:
    retried: list[ApiError] = []
    deadline = asyncio.get_running_loop().time() + seconds
    assert await persist(engine, QUICK, deadline, retried.append) == "answer"
    return retried


def away(asks_seconds: float | None = None) -> ResourceNotAvailableError:
    return ResourceNotAvailableError("away", engine_asks_seconds=asks_seconds)


async def test_an_engine_that_is_away_is_tried_until_it_is_back() -> None:
    engine = Engine(*[away() for _ in range(10)])
    assert len(await ask(engine)) == 10
    assert engine.calls == 11


async def test_after_the_deadline_its_last_error_is_told() -> None:
    engine = Engine(*[away() for _ in range(1000)])
    with pytest.raises(ResourceNotAvailableError):
        await ask(engine, seconds=0.02)
    assert 1 < engine.calls < 50


async def test_a_request_without_an_answer_is_sent_once_more_only() -> None:
    assert len(await ask(Engine(NoAnswerError("gone")))) == 1
    engine = Engine(NoAnswerError("gone"), NoAnswerError("gone"))
    with pytest.raises(NoAnswerError):
        await ask(engine)
    assert engine.calls == 2


async def test_what_an_engine_said_on_purpose_is_final() -> None:
    engine = Engine(InferenceError("500"))
    with pytest.raises(InferenceError):
        await ask(engine)
    assert engine.calls == 1


async def test_the_engines_own_retry_after_is_kept() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await ask(Engine(away(asks_seconds=0.05)))
    assert loop.time() - started >= 0.045
    engine = Engine(away(asks_seconds=7))
    with pytest.raises(ResourceNotAvailableError) as caught:
        await ask(engine)
    assert engine.calls == 1, "7 s are beyond the deadline"
    assert caught.value.headers["retry-after"] == "7"


def test_pauses_double_up_to_a_bound_and_half_of_them_is_chance() -> None:
    backoff = Backoff(first_delay_seconds=0.1, max_delay_seconds=1.0)
    assert [backoff.delay_seconds(n, 1.0) for n in range(5)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert backoff.delay_seconds(0, 0.0) == 0.05
    assert backoff.delay_seconds(10_000, 1.0) == 1.0


async def test_pauses_grow_from_try_to_try() -> None:
    engine = Engine(*[away() for _ in range(1000)])
    deadline = asyncio.get_running_loop().time() + 0.2
    with pytest.raises(ResourceNotAvailableError):
        await persist(engine, Backoff(0.01, 10.0), deadline, lambda _: None)
    assert engine.calls < 10, "as long as the first each, there would be time for 20 at least"


async def test_an_engine_that_asks_for_less_than_the_pause_gets_the_pause() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    backoff = Backoff(0.05, 0.05)
    await persist(Engine(away(asks_seconds=0.001)), backoff, started + 1, lambda _: None)
    assert loop.time() - started >= 0.025
