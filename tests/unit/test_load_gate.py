"""The gate: which runs keep the promise, which break it, and which cannot tell."""

from random import Random

import pytest

from load_tests.certainty import at_most, needed_for, percentile_range, share_range
from load_tests.gate import Check, Verdict, judge, needed_samples
from load_tests.samples import Sample
from monitoring.slo import Workload, load_slo
from tests.load_samples import evenly, sample

TYPICAL = Workload(
    scenarios=["short", "medium"],
    latency_ms={"p50": 500, "p95": 1000, "p99": 1500},
    requests_per_second=20,
    error_rate=0.001,
)


def verdict_of(samples: list[Sample], rate: float | None = 25.0, *faults: str) -> Verdict:
    seconds = len(samples) / (rate or 25)
    return judge("typical", TYPICAL, samples, rate=rate, seconds=seconds, invalid_because=faults)


def check(verdict: Verdict, name: str) -> Check:
    return next(each for each in verdict.checks if each.name == name)


def test_a_good_run_holds_and_is_sure() -> None:
    verdict = verdict_of(evenly(4000, 25, lambda _: 0.2))
    assert verdict.holds
    assert verdict.exit_code == 0
    assert all(each.is_sure for each in verdict.checks if each.unit == "ms")
    assert check(verdict, "requests per second").state == "holds"


@pytest.mark.parametrize(
    ("slow_share", "latency", "failing"),
    [
        (0.6, 0.6, ["latency p50"]),
        (0.1, 1.2, ["latency p95"]),
        (0.02, 1.6, ["latency p99"]),
        (0.1, 1.6, ["latency p95", "latency p99"]),
        (0.004, 9.0, []),
    ],
)
def test_each_percentile_is_held_against_its_target(
    slow_share: float, latency: float, failing: list[str]
) -> None:
    verdict = verdict_of(
        evenly(4000, 25, lambda number: latency if number % 1000 < 1000 * slow_share else 0.2)
    )
    assert [each.name for each in verdict.checks if each.state == "fails"] == failing
    assert verdict.exit_code == (1 if failing else 0)


def test_a_percentile_may_be_as_large_as_its_target() -> None:
    verdict = verdict_of(
        [sample(0, (0.5, 1.0, 1.5)[(n % 100 > 50) + (n % 100 > 95)]) for n in range(4000)]
    )
    measured = [each.measured for each in verdict.checks if each.unit == "ms"]
    assert measured == [500, 1000, 1500]
    assert verdict.state == "holds"


def test_too_few_requests_cannot_tell_and_do_not_pass() -> None:
    verdict = verdict_of(evenly(200, 25, lambda _: 0.2))
    assert check(verdict, "latency p95").state == "holds"
    assert check(verdict, "latency p99").state == "cannot tell"
    assert check(verdict, "error rate").state == "cannot tell"
    assert verdict.state == "cannot tell"
    assert verdict.exit_code == 1


def test_few_requests_are_enough_to_fail() -> None:
    verdict = verdict_of(evenly(40, 25, lambda _: 3.0))
    assert check(verdict, "latency p99").state == "fails"


def test_so_many_requests_can_tell_everything() -> None:
    count = needed_samples(TYPICAL)
    assert verdict_of(evenly(count, 25, lambda _: 0.2)).holds
    assert verdict_of(evenly(count - 1, 25, lambda _: 0.2)).state == "cannot tell"


def test_latency_counts_from_the_intended_time() -> None:
    late = [
        Sample("short", number / 25, number / 25 + 1.2, number / 25 + 1.3, "ok")
        for number in range(4000)
    ]
    assert check(verdict_of(late), "latency p95").measured == pytest.approx(1300)


def test_an_error_is_no_fast_answer() -> None:
    bad = evenly(2000, 25, lambda _: 0.001, outcome="error", error="connect")
    verdict = verdict_of(bad + evenly(2000, 25, lambda _: 0.7))
    assert check(verdict, "latency p50").measured == pytest.approx(700)
    assert check(verdict, "error rate").measured == 0.5
    assert check(verdict, "error rate").is_sure


def test_what_an_app_may_not_do_is_no_error_but_what_is_shed_is() -> None:
    good = evenly(4000, 25, lambda _: 0.2)
    limited = [sample(1, 0.01, "refused", error="429 rate_limit_exceeded", status=429)] * 400
    verdict = verdict_of(good + limited)
    assert verdict.holds
    assert verdict.limited == 400
    assert verdict.counted == 4000
    shed = [sample(1, 0.01, "refused", error="429 overloaded", status=429)] * 40
    assert check(verdict_of(good + shed), "error rate").state == "fails"


def test_who_leaves_is_not_counted() -> None:
    left = [sample(1, 9.0, "cancelled")] * 400
    verdict = verdict_of(evenly(4000, 25, lambda _: 0.2) + left)
    assert verdict.holds
    assert verdict.cancelled == 400


def test_other_scenarios_do_not_count() -> None:
    others = evenly(4000, 25, lambda _: 9.0, scenario="long")
    assert verdict_of(evenly(4000, 25, lambda _: 0.2) + others).holds


def test_throughput_is_held_only_where_it_was_asked_for() -> None:
    slow = verdict_of(evenly(4000, 5, lambda _: 0.2), 5.0)
    assert check(slow, "requests per second").state == "not asked"
    assert slow.holds
    # Asked at 20/s and by chance a little less arrived: all was answered.
    fewer = judge("typical", TYPICAL, evenly(1960, 19.6, lambda _: 0.2), rate=20, seconds=100)
    assert check(fewer, "requests per second").state == "holds"
    # As many were due, and half of them were answered long after.
    behind = judge("typical", TYPICAL, evenly(2000, 20, lambda n: n / 20), rate=20, seconds=100)
    assert check(behind, "requests per second").state == "fails"
    users = judge("typical", TYPICAL, evenly(400, 5, lambda _: 0.2), rate=None, seconds=80)
    assert check(users, "requests per second").state == "not asked"


def test_an_invalid_run_and_one_without_requests_say_nothing() -> None:
    assert verdict_of(evenly(4000, 25, lambda _: 0.2), 25.0, "it was late").exit_code == 2
    assert verdict_of([]).exit_code == 2


def test_the_promise_of_the_repository_can_be_judged() -> None:
    typical = load_slo().workloads["typical"]
    samples = evenly(needed_samples(typical), 25, lambda _: 0.001)
    verdict = judge("typical", typical, samples, rate=25, seconds=len(samples) / 25)
    assert verdict.holds


def test_ranges_have_the_truth_in_them_as_often_as_they_say() -> None:
    random, held = Random(3), 0
    for _ in range(300):
        ordered = sorted(random.random() for _ in range(400))
        lower, upper = percentile_range(ordered, 95)
        assert lower is not None
        assert upper is not None
        held += lower <= 0.95 <= upper
    assert 0.87 <= held / 300 <= 0.97  # 90 %, and a little more since ranks are whole


def test_the_upper_bound_of_p99_needs_299_values() -> None:
    assert needed_for(99) == 299
    assert percentile_range([1.0] * 298, 99)[1] is None
    assert percentile_range([1.0] * 299, 99)[1] == 1.0


def test_shares_and_chances_are_those_of_the_textbook() -> None:
    assert at_most(2, 4, 0.5) == pytest.approx(11 / 16)
    assert at_most(500_000, 1_000_000, 0.5) == pytest.approx(0.5, abs=0.001)
    assert share_range(0, 2995)[1] == pytest.approx(0.001, abs=1e-5)
    low, high = share_range(3, 100)
    assert low == pytest.approx(0.00823, abs=1e-5)
    assert high == pytest.approx(0.07571, abs=1e-5)
    assert share_range(5, 5)[1] == 1.0
    assert share_range(0, 5)[0] == 0.0
    assert share_range(0, 0) == (0.0, 1.0)
