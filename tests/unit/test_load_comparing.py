"""Comparing runs: what is news, and what is chance."""

from random import Random

from load_tests.comparing import Comparison, compare, table
from load_tests.results import Result
from load_tests.samples import Sample
from tests.load_samples import evenly, result_of, sample

Run = tuple[Result, list[Sample]]


def run(seed: int, factor: float = 1.0, count: int = 1500, **more: object) -> Run:
    """Latencies with a long tail."""
    random = Random(seed)
    samples = evenly(count, 25, lambda _: factor * random.lognormvariate(-1.5, 0.5))
    return result_of(samples, seconds=count / 25, **more), samples  # type: ignore[arg-type]


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {row.figure: row.verdict for row in comparison.rows}


def test_chance_is_no_change() -> None:
    worse = [compare(run(seed), run(seed + 100)).is_worse for seed in range(8)]
    assert sum(worse) <= 2  # a figure in forty, by the noise's own definition


def test_a_slower_run_is_worse_and_a_faster_one_better() -> None:
    slower = compare(run(1), run(2, 1.3))
    assert slower.is_worse
    assert verdicts(slower)["latency p50"] == "worse"
    assert verdicts(slower)["latency p95"] == "worse"
    faster = compare(run(1), run(2, 0.7))
    assert not faster.is_worse
    assert verdicts(faster)["latency p50"] == "better"


def test_a_change_too_small_to_matter_is_none() -> None:
    old = evenly(3000, 25, lambda _: 0.200)
    new = evenly(3000, 25, lambda _: 0.202)
    pair = [(result_of(each, seconds=120), each) for each in (old, new)]
    assert verdicts(compare(*pair))["latency p95"] == "same"


def test_slow_moments_are_one_event_and_not_a_hundred() -> None:
    """A stop of four seconds: many slow answers, and still only one piece of evidence."""

    def latency(number: int) -> float:
        return 0.2 + (3.0 if 700 <= number < 800 else 0.0)

    old = evenly(1500, 25, lambda _: 0.2)
    new = evenly(1500, 25, latency)
    pair = [(result_of(each, seconds=60), each) for each in (old, new)]
    assert verdicts(compare(*pair))["latency p95"] == "same"


def test_few_answers_cannot_tell() -> None:
    comparison = compare(run(1, count=100), run(2, 2.0, count=100))
    assert verdicts(comparison)["latency p99"] == "cannot tell"
    assert verdicts(comparison)["latency p50"] == "worse"


def test_more_errors_are_worse() -> None:
    result, samples = run(1)
    bad = [sample(1, 0.1, "error", error="connect") for _ in range(30)]
    new = samples + bad
    comparison = compare((result, samples), (result_of(new, seconds=60), new))
    (row,) = [row for row in comparison.rows if row.figure == "error rate"]
    assert row.verdict == "worse"
    assert (row.old, row.new) == (0.0, 30 / 1530)
    assert row.change == row.new
    back = compare((result_of(new, seconds=60), new), (result, samples))
    assert verdicts(back)["error rate"] == "better"
    one = [*samples, bad[0]]
    chance = compare((result, samples), (result_of(one, seconds=60), one))
    assert verdicts(chance)["error rate"] == "same"


def test_different_configurations_and_invalid_runs_are_told() -> None:
    assert compare(run(1), run(1)).differences == []
    assert compare(run(1), run(1, host="http://other:8000", salt="7")).differences == []
    other = compare(run(1), run(1, rate=50.0, cache="warm"))
    assert other.differences == ["rate: 25.0 and 50.0", "cache: cold and warm"]
    assert compare(run(1), run(1, faults=["it was late"])).invalid == ["the new run: it was late"]


def test_the_table_has_every_figure_with_its_unit() -> None:
    text = table(compare(run(1), run(2, 1.5)))
    assert "latency p95" in text
    assert "worse" in text
    assert " ms" in text
    assert "points" in text
