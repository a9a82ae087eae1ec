"""`--slo`, `--find-capacity` and `--compare`: which run follows, and which exit code."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from load_tests.capacity import HEADROOM, Plan, Step
from load_tests.configuration import Configuration
from load_tests.gate import needed_samples
from load_tests.machine import hardware
from load_tests.promises import (
    STEP_TIME_OUT,
    compared,
    found_rate,
    rate_or_found,
    search,
    slo_seconds,
    step_line,
    verdict_lines,
    workload_of,
)
from load_tests.report.writing import CAPACITY, verdicts_of, write_report
from load_tests.results import Result, write_result
from load_tests.running import WAS_INTERRUPTED
from load_tests.samples import Sample
from monitoring.slo import load_slo
from tests.load_reports import answers, knee
from tests.load_samples import arrivals, evenly, result_of, served

HOST = "http://127.0.0.1:8000"
SLO = load_slo()


def test_a_rate_is_a_number_or_found() -> None:
    assert rate_or_found("25") == 25
    assert rate_or_found("found") == "found"
    for text in ("fast", "nan", "inf", "0", "-1", "1e308"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no number above 0"):
            rate_or_found(text)


def test_a_workload_that_is_not_promised_is_an_error() -> None:
    assert workload_of(SLO, None)[0] == next(iter(SLO.workloads))
    with pytest.raises(ValueError, match="no workload none"):
        workload_of(SLO, "none")


def test_a_run_is_long_enough_to_tell() -> None:
    _, workload = workload_of(SLO, None)
    for rate in (2, 20, 500):
        assert slo_seconds(workload, rate) * rate > 1.1 * needed_samples(workload)
    assert slo_seconds(workload, 500) == 60


def _saved(folder: Path, name: str, **changes: object) -> None:
    capacity = msgspec.structs.replace(knee(), host=HOST, hardware=hardware(), **changes)
    write_report(folder / name, SLO, capacity=capacity)


def test_the_found_rate_is_that_of_this_gateway_on_this_machine_less_headroom(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="--find-capacity"):
        found_rate(tmp_path, HOST, "typical")
    other = msgspec.structs.replace(hardware(), cores=512)
    write_report(
        tmp_path / "other",
        SLO,
        capacity=msgspec.structs.replace(knee(), host=HOST, hardware=other, started_at="2027"),
    )
    _saved(tmp_path, "none", rate=None, started_at="2027")
    _saved(tmp_path, "elsewhere", workload="batch", started_at="2027")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / CAPACITY).write_text("{}")
    with pytest.raises(ValueError, match="--find-capacity"):
        found_rate(tmp_path, HOST, "typical")
    _saved(tmp_path, "old", rate=10.0, started_at="2026-01-01")
    _saved(tmp_path, "new", rate=20.0, started_at="2026-03-01")
    rate, where = found_rate(tmp_path, HOST, "typical")
    assert rate == HEADROOM * 20
    assert where.endswith(f"new/{CAPACITY}")


def test_a_search_runs_an_open_loop_anew_for_each_step() -> None:
    asked: list[Configuration] = []
    told: list[Step] = []

    def runs(configuration: Configuration) -> tuple[Result, list[Sample]]:
        asked.append(configuration)
        assert configuration.rate is not None
        assert configuration.seconds is not None
        times = list(arrivals(configuration.rate, configuration.seconds, configuration.seed))
        samples = served(times, 4, lambda: 0.1)
        return result_of(samples, seconds=configuration.seconds), samples

    start = Configuration(host=HOST, scenarios={"short": 1.0}, concurrency=3, requests=5)
    found = search(
        runs,
        start,
        workload_of(SLO, None),
        Plan(settle_seconds=0.0, highest_rate=30),
        told=told.append,
        versions={"gateway": "1"},
    )
    assert [each.rate for each in asked] == [step.rate for step in told] == [4, 8, 16, 30]
    assert len({each.salt for each in asked}) == len({each.seed for each in asked}) == 4
    assert all(each.concurrency is None and each.requests is None for each in asked)
    assert {each.total_seconds for each in asked} == {STEP_TIME_OUT}
    assert (found.host, found.versions, found.hardware) == (HOST, {"gateway": "1"}, hardware())
    assert "30.00/s" in step_line(told[-1])


def _run(
    folder: Path, samples: Sequence[Sample], faults: Sequence[str] = (), rate: float = 25
) -> Path:
    write_result(result_of(samples, seconds=60, faults=faults, rate=rate), samples, folder)
    return folder


def test_the_exit_code_of_a_comparison(tmp_path: Path) -> None:
    old = _run(tmp_path / "old", answers(1))
    same = _run(tmp_path / "same", answers(1))
    slower = _run(tmp_path / "slower", answers(1.5))
    assert compared((old, same), is_forced=False)[1] == 0
    text, code = compared((old / "result.json", slower), is_forced=False)
    assert code == 1
    assert "worse" in text
    other = _run(tmp_path / "other", answers(1), rate=50)
    text, code = compared((old, other), is_forced=False)
    assert code == 2
    assert "rate: 25.0 and 50.0" in text
    assert compared((old, other), is_forced=True)[1] == 0
    late = _run(tmp_path / "late", answers(1), faults=["it was late"])
    assert compared((old, late), is_forced=False)[1] == 2
    text, code = compared((old, tmp_path / "nowhere"), is_forced=False)
    assert code == 2
    assert text.startswith("error: ")


def test_a_verdict_is_told_line_by_line() -> None:
    samples = [replace(each, scenario="medium") for each in evenly(900, 25, lambda _: 2.0)]
    (verdict,) = verdicts_of(SLO, result_of(samples, seconds=36, faults=["late"]), samples)
    text = verdict_lines(verdict)
    assert "latency p50" in text
    assert "fails (sure)" in text
    assert "cannot tell" in text
    assert "NOT VALID: late" in text


def test_a_search_that_is_interrupted_ends() -> None:
    asked: list[float | None] = []

    def interrupted(wanted: Configuration) -> tuple[Result, list[Sample]]:
        asked.append(wanted.rate)
        return result_of([], seconds=5, faults=[WAS_INTERRUPTED]), []

    with pytest.raises(KeyboardInterrupt):
        search(
            interrupted,
            Configuration(host="http://x", scenarios={"short": 1}, rate=4, seconds=5),
            workload_of(SLO, None),
            Plan(),
            told=print,
            versions={},
        )
    assert len(asked) == 1
