"""The real engine dies or falls silent under its clients: what they get, and what health says."""

import concurrent.futures
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.folded import Json, from_plain, from_stream, read_events
from tests.local_stack import (
    LocalStack,
    changed_stack_file,
    eventually,
    local_stack,
)
from tests.wire import assert_valid

QUEUE_SECONDS = 6.0
IDLE_SECONDS = 2.0
HANG_SECONDS = 3.0
SLACK_SECONDS = 2.0
"""What a busy machine may add to any time-out."""

CHAT = "/v1/chat/completions"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
LONG: Json = {"model": "tiny", "messages": QUESTION, "ignore_eos": True, "max_tokens": 1900}


@pytest.fixture
def impatient(stack: LocalStack, tmp_path: Path) -> Iterator[LocalStack]:
    """A stack of its own with short time-outs; the session's came up, so the engine is built."""
    assert stack.is_ready()
    timeouts = {
        "queue_seconds": QUEUE_SECONDS,
        "connect_seconds": 1,
        "first_token_seconds": QUEUE_SECONDS,
        "idle_seconds": IDLE_SECONDS,
        "total_seconds": 60,
    }
    local = {"slots": 2, "hang_seconds": HANG_SECONDS}
    config = changed_stack_file(tmp_path, timeouts=timeouts, local=local)
    with local_stack(tmp_path / "data", STACK_CONFIG=config) as running:
        running.wait_ready(30)
        yield running


@dataclass(frozen=True)
class Look:
    """One question to `/health/ready` and its answer."""

    asked: float
    answered: float
    is_ready: bool


@contextlib.contextmanager
def watching_readiness(stack: LocalStack) -> Iterator[list[Look]]:
    """Ask every 50 ms, from the side, as a load balancer would."""
    looks: list[Look] = []
    is_over = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=stack.url, timeout=10) as client:
            while not is_over.wait(0.05):
                asked = time.monotonic()
                status = client.get("/health/ready").status_code
                assert status in (200, 503)
                looks.append(Look(asked, time.monotonic(), status == 200))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        watcher = thread.submit(watch)
        try:
            yield looks
        finally:
            is_over.set()
        watcher.result(timeout=15)


def engine_is_up(stack: LocalStack) -> bool:
    """Asked at the engine itself."""
    url = stack.listed_models()[0]["replicas"][0]
    try:
        return httpx.get(f"{url}/health", timeout=0.3).status_code == 200
    except httpx.HTTPError:
        return False


def back_again(stack: LocalStack, seconds: float) -> tuple[float, float]:
    """Wait for the engine; returns when it was surely still away and when it was surely back."""
    deadline = time.monotonic() + seconds
    away = time.monotonic()
    while True:
        asked = time.monotonic()
        if engine_is_up(stack):
            return away, time.monotonic()
        away = asked
        assert asked < deadline, f"the engine is not back within {seconds} s"
        time.sleep(0.02)


def assert_readiness_was_true(looks: list[Look], down: float, away: float, back: float) -> None:
    lies = [look for look in looks if look.is_ready and down < look.asked and look.answered < away]
    assert not lies, "ready while no engine was there"
    meanwhile = [look for look in looks if down < look.asked and look.answered < away]
    assert len(meanwhile) >= 3, "it was asked while the engine was away"
    assert any(look.is_ready for look in looks if look.answered < down)
    assert any(look.is_ready for look in looks if back < look.answered < back + SLACK_SECONDS)
    assert max(look.answered - look.asked for look in looks) < SLACK_SECONDS


def first_events(lines: Iterator[str], count: int) -> list[str]:
    """The next `data:` lines of a stream."""
    events: list[str] = []
    while len(events) < count:
        line = next(lines)
        events += [line] if line.startswith("data: ") else []
    return events


def assert_ends_with_typed_error(rest: list[str], codes: set[str]) -> None:
    """The last event of a stream is an error in the envelope; it never says that it is done."""
    assert "data: [DONE]" not in rest
    lines = [line for line in rest if line]
    assert lines[-2] == "event: error"
    envelope = json.loads(lines[-1].removeprefix("data: "))
    assert_valid("ErrorResponse", envelope)
    assert envelope["error"]["code"] in codes
    assert envelope["error"]["type"] == "server_error"


def kill(stack: LocalStack) -> None:
    """kill -9 of the engine; returns when it is gone."""
    pid = stack.engine_pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not engine_is_up(stack), 2, "the engine is gone")


def stop(stack: LocalStack) -> None:
    os.kill(stack.engine_pid(), signal.SIGSTOP)


def answer_of(stack: LocalStack, **fields: Any) -> str:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=QUESTION, **fields)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("fault", "seconds", "codes"),
    [
        pytest.param(kill, SLACK_SECONDS, {"engine_truncated", "engine_error"}, id="kill -9"),
        pytest.param(stop, IDLE_SECONDS + SLACK_SECONDS, {"engine_timeout"}, id="SIGSTOP"),
    ],
)
def test_fault_in_mid_stream(
    impatient: LocalStack,
    fault: Callable[[LocalStack], None],
    seconds: float,
    codes: set[str],
) -> None:
    with watching_readiness(impatient) as looks:
        time.sleep(0.3)
        with httpx.stream(
            "POST", f"{impatient.url}{CHAT}", json=LONG | {"stream": True}, timeout=30
        ) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            first_events(lines, 3)
            fault(impatient)
            down = time.monotonic()
            rest = list(lines)
            assert time.monotonic() - down < seconds
        assert_ends_with_typed_error(rest, codes)
        away, back = back_again(impatient, 20)
        assert "Paris" in answer_of(impatient)
        impatient.wait_ready(SLACK_SECONDS)
        time.sleep(0.2)
    assert_readiness_was_true(looks, down, away, back)


@pytest.mark.parametrize("fault", [kill, stop])
@pytest.mark.parametrize("stream", [False, True])
def test_who_asks_while_the_engine_is_away_waits_for_it(
    impatient: LocalStack, fault: Callable[[LocalStack], None], stream: bool
) -> None:
    fault(impatient)
    asked = time.monotonic()
    body: Json = {"model": "tiny", "messages": QUESTION, "stream": stream}
    body |= {"stream_options": {"include_usage": True}} if stream else {}
    response = httpx.post(f"{impatient.url}{CHAT}", json=body, timeout=30)
    assert response.status_code == 200, response.text
    answer = from_stream(read_events(response.text)) if stream else from_plain(response.json())
    assert "Paris" in answer["choices"][0]["text"]
    assert time.monotonic() - asked < QUEUE_SECONDS + SLACK_SECONDS


def test_many_who_wait_for_the_engine_are_all_served(impatient: LocalStack) -> None:
    kill(impatient)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: answer_of(impatient), range(8)))
    assert all("Paris" in answer for answer in answers)


def test_those_behind_a_killed_engine_are_served_by_the_next_one(impatient: LocalStack) -> None:
    """Two stream, others wait: the former are told, the latter have lost nothing but time."""
    with concurrent.futures.ThreadPoolExecutor(8) as threads, contextlib.ExitStack() as streams:
        running = []
        for _ in range(2):
            response = streams.enter_context(
                httpx.stream(
                    "POST", f"{impatient.url}{CHAT}", json=LONG | {"stream": True}, timeout=30
                )
            )
            running.append(response.iter_lines())
            first_events(running[-1], 2)
        waiting = [threads.submit(answer_of, impatient) for _ in range(4)]
        kill(impatient)
        for lines in running:
            assert_ends_with_typed_error(list(lines), {"engine_truncated", "engine_error"})
        for answer in waiting:
            assert "Paris" in answer.result(timeout=20)


def test_a_plain_answer_that_was_begun_is_an_error_in_time(impatient: LocalStack) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        asked = thread.submit(
            httpx.post, f"{impatient.url}{CHAT}", json=LONG | {"stream": False}, timeout=30
        )
        health = f"{impatient.url}/health"
        eventually(lambda: httpx.get(health).json()["requests_in_flight"] == 1, 5, "it runs")
        time.sleep(0.2)
        kill(impatient)
        killed = time.monotonic()
        response = asked.result(timeout=20)
        assert time.monotonic() - killed < SLACK_SECONDS
    assert response.status_code in (502, 503)
    assert_valid("ErrorResponse", response.json())


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_does_not_come_back_is_503_after_the_wait(
    impatient: LocalStack, stream: bool
) -> None:
    """With its supervisor stopped, nobody starts it again until that goes on."""
    impatient.process.send_signal(signal.SIGSTOP)
    try:
        kill(impatient)
        asked = time.monotonic()
        body = {"model": "tiny", "messages": QUESTION, "stream": stream}
        response = httpx.post(f"{impatient.url}{CHAT}", json=body, timeout=30)
        waited = time.monotonic() - asked
        assert response.status_code == 503, response.text
        assert_valid("ErrorResponse", response.json())
        assert int(response.headers["retry-after"]) >= 1
        assert QUEUE_SECONDS / 2 < waited < QUEUE_SECONDS + SLACK_SECONDS
        assert httpx.get(f"{impatient.url}/health/ready").status_code == 503
        summary = httpx.get(f"{impatient.url}/health").json()
        assert summary["status"] == "down"
        assert summary["models"] == [{"id": "tiny", "is_ready": False}]
    finally:
        impatient.process.send_signal(signal.SIGCONT)
    impatient.wait_ready(20)
    assert "Paris" in answer_of(impatient)


def test_a_client_that_leaves_while_the_engine_is_away_is_forgotten(impatient: LocalStack) -> None:
    impatient.process.send_signal(signal.SIGSTOP)
    try:
        kill(impatient)
        body = {"model": "tiny", "messages": QUESTION}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{impatient.url}{CHAT}", json=body, timeout=0.5)
        health = httpx.get(f"{impatient.url}/health").json()
        assert (health["requests_in_flight"], health["queue_size"]) == (0, 0)
    finally:
        impatient.process.send_signal(signal.SIGCONT)
