"""Where a request's milliseconds went."""

import time

import pytest

from api_server.observability.record import RequestRecord


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def timing(record: RequestRecord) -> dict[str, float]:
    parts = record.server_timing().decode().split(", ")
    return {name: float(value) for name, value in (part.split(";dur=") for part in parts)}


def test_each_millisecond_is_the_queues_the_engines_or_ours(clock: Clock) -> None:
    record = RequestRecord("id", "POST", "/v1/chat/completions", started=clock.now, model="m")
    record.upload_ms = 1000.0
    clock.now += 1.002
    record.begin("queued")
    clock.now += 0.3
    assert timing(record) == {"queue": 300.0, "engine": 0.0, "gateway": 2.0}
    record.begin("connecting")
    clock.now += 0.5
    assert timing(record) == {"queue": 300.0, "engine": 500.0, "gateway": 2.0}
    record.begin("generating")
    assert timing(record) == {"queue": 300.0, "engine": 500.0, "gateway": 2.0}
    assert (record.queue_ms, record.engine_ms) == pytest.approx((300.0, 500.0))
    assert record.own_ms == pytest.approx(2.0)


def test_a_further_try_adds_to_the_time_of_its_phases(clock: Clock) -> None:
    record = RequestRecord("id", "POST", "/v1/chat/completions", started=clock.now, model="m")
    record.begin("queued")
    for waited, took in ((0.1, 0.2), (0.3, 0.4)):
        clock.now += waited
        record.begin("connecting")
        clock.now += took
        record.begin("queued")
    record.begin("connecting")
    record.begin("generating")
    assert (record.queue_ms, record.engine_ms) == pytest.approx((400.0, 600.0))
    assert record.own_ms == pytest.approx(0.0)
    clock.now += 0.5  # what comes after the first event is the engine's
    assert timing(record) == {"queue": 400.0, "engine": 1100.0, "gateway": 0.0}


def test_a_request_to_no_model_is_the_gateways_alone(clock: Clock) -> None:
    record = RequestRecord("id", "GET", "/health", started=clock.now)
    clock.now += 0.25
    assert timing(record) == {"gateway": 250.0}
    assert record.as_fields() == {
        "request_id": "id",
        "method": "GET",
        "path": "/health",
        "status": 0,
        "outcome": "ok",
        "duration_ms": 250.0,
    }


def test_the_log_line_has_what_is_known(clock: Clock) -> None:
    record = RequestRecord("id", "POST", "/v1/completions", started=clock.now, model="m")
    record.begin("connecting")
    record.fail("error", "engine_error", "x" * 600, 40)
    fields = record.as_fields()
    assert (fields["model"], fields["phase"]) == ("m", "connecting")
    assert (fields["outcome"], fields["error_code"]) == ("error", "engine_error")
    assert fields["error_message"] == "x" * 500
    assert not {"queue_ms", "replica", "finish_reason"} & fields.keys()
