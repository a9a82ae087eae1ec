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
