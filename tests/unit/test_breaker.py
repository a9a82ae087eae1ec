"""When a replica is left out, and when it is tried again."""

import pytest

from api_server.errors import (
    ApiError,
    ContextLengthError,
    EngineBusyError,
    EngineTimeoutError,
    InferenceError,
    NoAnswerError,
    ResourceNotAvailableError,
    TruncatedAnswerError,
)
from api_server.inference.catalogue import Balancing
from api_server.inference.replicas.breaker import Breaker, Fault, fault_of

SETTINGS = Balancing(failures=3, open_seconds=1.0, max_open_seconds=5.0)


LATER: tuple[Fault, ...] = ("broken", "unreachable")


def opened(fault: Fault = "silent", now: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        breaker.failed(fault, now, breaker.begin())
    return breaker


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (EngineTimeoutError("silence"), "silent"),
        (NoAnswerError("gone"), "dropped"),
        (TruncatedAnswerError("cut"), "dropped"),
        (ResourceNotAvailableError("refused"), "unreachable"),
        (InferenceError("500"), "broken"),
        (EngineBusyError("429"), None),
        (ContextLengthError(1, 2), None),
    ],
)
def test_what_an_error_says_of_a_replica(error: ApiError, fault: Fault | None) -> None:
    assert fault_of(error) == fault


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(2):
        breaker.failed("broken", 0.0, breaker.begin())
    breaker.completed()
    for _ in range(2):
        breaker.failed("broken", 0.0, breaker.begin())
        assert breaker.state(0.0) == "closed"
    breaker.failed("broken", 0.0, breaker.begin())
    assert breaker.state(0.0) == "open"
    assert not breaker.permits(0.99)


def test_when_half_open_one_request_passes_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(1.0) == "half-open"
    assert breaker.permits(1.0)
    is_trial = breaker.begin()
    assert is_trial
    assert not breaker.permits(1.0)
    breaker.abandoned(is_trial)
    assert breaker.permits(1.0), "a trial that told nothing leaves room for another"


def test_a_trial_that_is_answered_closes_it() -> None:
    breaker = opened()
    breaker.begin()
    breaker.close()
    assert breaker.is_closed
    assert not breaker.begin(), "no trial any more"


def test_each_failed_trial_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(5):
        assert breaker.open_until is not None
        waits.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.failed("silent", now, breaker.begin())
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_one_that_cannot_be_reached_is_knocked_at_as_often_as_before() -> None:
    breaker, now = opened("unreachable"), 1.0
    for _ in range(5):
        breaker.failed("unreachable", now, breaker.begin())
        assert breaker.open_until == now + 1.0
        now += 1.0


def test_failures_of_requests_from_before_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    breaker.failed("silent", 0.9, trial=0)
    assert breaker.open_until == 1.0
    assert breaker.permits(1.0)


def test_one_that_begins_answers_and_never_ends_them_is_left_out_longer_and_longer() -> None:
    breaker, now, waits = opened("dropped"), 0.0, []
    for _ in range(4):
        assert breaker.open_until is not None
        waits.append(breaker.open_until - now)
        now = breaker.open_until
        trial = breaker.begin()
        breaker.close()  # the first event
        breaker.failed("dropped", now, trial)
    assert waits == [1.0, 2.0, 4.0, 5.0]
    breaker.close()
    breaker.completed()
    for _ in range(2):
        breaker.failed("dropped", now, 0)
    assert breaker.is_closed, "an answer that came to its end makes up for all"
    breaker.failed("dropped", now, 0)
    assert breaker.open_until == now + 1.0


def test_the_end_of_an_older_trial_is_not_that_of_the_present_one() -> None:
    breaker = opened()
    older = breaker.begin()
    breaker.close()
    breaker.failed("silent", 10.0, 0)
    newer = breaker.begin()
    assert newer
    breaker.abandoned(older)
    assert not breaker.permits(100.0)
    breaker.failed("silent", 100.0, older)
    assert breaker.open_until == 12.0
    breaker.abandoned(newer)
    assert breaker.permits(100.0)


def test_stragglers_say_nothing_new_but_that_nobody_listens_any_more() -> None:
    breaker = opened("silent")
    faults = []
    for fault in LATER:
        breaker.failed(fault, 0.5, 0)
        faults.append(breaker.fault)
    assert faults == ["silent", "unreachable"]
