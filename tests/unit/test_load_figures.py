"""Figures of load tests: exact, from samples; and results that are read as they were written."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from load_tests.configuration import Configuration
from load_tests.connections import Address
from load_tests.figures import percentile, spread
from load_tests.results import (
    RESULT,
    Hardware,
    LoadProcess,
    Result,
    ResultError,
    read_result,
    read_samples,
    write_result,
)
from load_tests.samples import Sample
from load_tests.showing import progress_line, table
from load_tests.summing_up import faults_of, lag_of, row, rows, timeline


def _sample(number: int, **told: object) -> Sample:
    sent = number / 10
    sample = Sample("short", sent, sent + 0.001, sent + 0.25, "ok", number=number)
    return replace(sample, **told)  # type: ignore[arg-type]


def test_percentiles_are_exact() -> None:
    values = [float(value) for value in range(1, 1001)]
    Random(1).shuffle(values)
    found = spread(values)
    assert found is not None
    assert found.percentiles["p50"] == found.p50 == 500
    assert (found.p95, found.p99, found.percentiles["p99.9"]) == (950, 990, 999)
    assert (found.lowest, found.highest, found.mean, found.count) == (1, 1000, 500.5, 1000)
    assert percentile([1.0, 2.0, 3.0], 100 / 3) == 1
    assert spread([None]) is None


def test_percentile_is_the_smallest_that_the_share_does_not_exceed() -> None:
    random = Random(2)
    for count in (1, 2, 3, 7, 100, 101):
        values = sorted(random.random() for _ in range(count))
        for percent in (1, 50, 90, 95, 99):
            found = percentile(values, percent)
            assert sum(value <= found for value in values) * 100 >= percent * count
            below = [value for value in values if value < found]
            assert len(below) * 100 < percent * count


SAMPLES = [
    *(_sample(number, completion_tokens=10, first_token=number / 10 + 0.1) for number in range(10)),
    _sample(10, outcome="error", error="truncated", ended=9.0),
    _sample(11, outcome="refused", error="429 overloaded", retry_after=1.0, status=429),
    _sample(12, outcome="refused", error="429 overloaded", attempt=2),
    _sample(13, outcome="cancelled", scenario="cancellers", stages={"queue": 0.5}),
]


def test_a_row_counts_everything_and_times_what_went_well() -> None:
    found = row("all", SAMPLES, 2.0)
    assert (found.count, found.ok, found.refused, found.cancelled) == (14, 10, 2, 1)
    assert found.errors == {"truncated": 1}
    assert found.refusals == {"429 overloaded": 2}
    assert (found.retried, found.retried_refused) == (1, 1)
    assert found.count == found.ok + found.refused + found.cancelled + sum(found.errors.values())
    assert found.latency is not None
    assert found.latency.highest == pytest.approx(0.25)
    assert found.first_token is not None
    assert found.first_token.count == 10
    assert found.first_token.p50 == pytest.approx(0.1)
    assert (found.requests_per_second, found.tokens_per_second) == (5.0, 50.0)
    assert [each.scenario for each in rows(SAMPLES, 2.0)] == ["short", "cancellers"]


def test_the_timeline_has_every_second_and_every_sample_once() -> None:
    seconds = timeline(SAMPLES)
    assert [each.second for each in seconds] == list(range(10))
    assert sum(each.ok for each in seconds) == 10
    assert sum(each.errors for each in seconds) == 1
    assert sum(each.due for each in seconds) == sum(each.sent for each in seconds) == 14
    assert seconds[5].in_flight == 1  # the one that is cut at second 9
    assert (seconds[5].p50, seconds[-1].in_flight) == (None, 0)


def test_what_is_in_flight_is_counted_at_the_end_of_a_second() -> None:
    sent_and_ended = [(0.1, 0.9), (0.2, 1.5), (0.9, 2.1), (1.4, 1.6), (2.05, 2.2)]
    samples = [Sample("short", sent, sent, ended, "ok") for sent, ended in sent_and_ended]
    assert [each.in_flight for each in timeline(samples)] == [2, 1, 0]


def test_a_second_has_the_latencies_of_its_good_answers() -> None:
    good = [Sample("short", 0.0, 0.0, latency, "ok") for latency in (0.2, 0.3, 0.4)]
    bad = Sample("short", 0.0, 0.0, 0.9, "error", error="connect")
    (second,) = timeline([*good, bad])
    assert (second.p50, second.p95, second.p99) == (0.3, 0.4, 0.4)
    assert (second.ok, second.errors) == (3, 1)


def test_stages_are_those_of_answers_that_went_well() -> None:
    told = {"prompt_seconds": 0.2, "decode_seconds": 0.4}
    good = [_sample(n, stages={"queue": 0.1 * n, "engine": 0.3}, **told) for n in (1, 2, 3)]
    bad = _sample(4, outcome="error", error="truncated", stages={"queue": 9.0})
    stages = row("short", [*good, bad, _sample(5)], 1.0).stages
    medians = {name: found.p50 for name, found in stages.items()}
    assert medians == {"queue": 0.2, "engine": 0.3, "prompt": 0.2, "decode": 0.4}
    assert {found.count for found in stages.values()} == {3}


def _process(**told: object) -> LoadProcess:
    given: dict[str, Any] = {"sent": 1, "unsent": 0, "cpu_share": 0.2, "locust": {}}
    return LoadProcess(**(given | {"loop_delay": spread([0.001])} | told))


CONFIGURATION = Configuration(host="http://h", scenarios={"short": 1.0}, rate=10, seconds=2)


def test_a_run_counts_only_if_the_load_tester_kept_up() -> None:
    good = spread([0.001])
    assert faults_of(CONFIGURATION, good, [_process()]) == []
    late = spread([0.2])
    for lag, process, words in (
        (late, _process(), "sent 200 ms late"),
        (good, _process(unsent=3), "3 arrivals were not sent"),
        (good, _process(cpu_share=0.95), "95% of a core"),
        (good, _process(loop_delay=late), "process 0 was 200 ms late"),
    ):
        (fault,) = faults_of(CONFIGURATION, lag, [process])
        assert words in fault


def _result() -> Result:
    return Result(
        started_at="2026-11-21T10:00:00.000+00:00",
        seconds=2.0,
        invalid_because=["3 arrivals were not sent"],
        configuration=CONFIGURATION,
        left_out={"jobs": "no PostgreSQL"},
        probes=2,
        versions={"locust": "2.47.0"},
        hardware=Hardware(cpu="c", cores=2, memory_bytes=1, gpu=None, system="s"),
        total=row("all", SAMPLES, 2.0),
        scenarios=rows(SAMPLES, 2.0),
        timeline=timeline(SAMPLES),
        lag=lag_of(SAMPLES),
        processes=[_process()],
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_result(_result(), SAMPLES, tmp_path / "new")
    assert read_result(path) == read_result(tmp_path / "new") == _result()
    assert list(read_samples(tmp_path / "new")) == [
        replace(
            sample,
            **{
                name: round(value, 6)
                for name in ("intended", "sent", "ended", "first_token")
                if (value := getattr(sample, name)) is not None
            },
        )
        for sample in SAMPLES
    ]


def test_a_result_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write_result(_result(), [], tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ResultError, match="has version 99"):
        read_result(path)
    for raw in ("{}", "<", json.dumps({"schema_version": 1})):
        (tmp_path / RESULT).write_text(raw)
        with pytest.raises(ResultError):
            read_result(tmp_path)
    with pytest.raises(ResultError):
        list(read_samples(tmp_path / "nowhere"))


def test_the_table_has_a_line_for_each_scenario_and_says_what_is_wrong() -> None:
    shown = table(_result())
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["scenario", "short", "cancellers", "all"]
    assert "error: truncated: 1" in shown
    assert "refused: 429 overloaded: 2" in shown
    assert "NOT VALID: 3 arrivals were not sent" in shown
    assert "left out: jobs: no PostgreSQL" in shown


def test_progress_is_one_line() -> None:
    one = {"sent": 5, "ok": 3, "errors": 1, "in_flight": 1, "tokens": 8, "recent": [0.1, 0.2]}
    line = progress_line(3.21, [one, {}, one], "60 s")
    assert line == (
        "  3.2 s of 60 s: 10 sent, 6 ok, 2 errors, 2 in flight, 16 tokens, p95 now 200 ms"
    )


def test_an_address_is_a_url_without_secrets() -> None:
    assert Address.of("http://h:1/v1/") == Address("h", 1, is_secret=False, base="")
    assert Address.of("https://h/llm") == Address("h", 443, is_secret=True, base="/llm")
    for url in ("h:8000", "ftp://h", "http://", "http://key@h"):
        with pytest.raises(ValueError, match=r".+"):
            Address.of(url)
