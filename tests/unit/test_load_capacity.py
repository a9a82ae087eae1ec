"""The knee finder, against servers whose knee is known."""

from collections.abc import Sequence

import pytest
from msgspec import structs

from load_tests.capacity import (
    HEADROOM,
    Capacity,
    Measured,
    Next,
    Plan,
    Step,
    Target,
    find,
    next_step,
    step_of,
    targets_of,
)
from load_tests.samples import Sample
from monitoring.slo import Workload, load_slo
from tests.load_samples import arrivals, sample, served

TARGETS = (Target(0.5, 0.5), Target(0.95, 1.0))


class Machine:
    """A server of so many slots with a fixed service time (M/D/c), and its clock."""

    def __init__(self, slots: int, service: float, seed: int = 1) -> None:
        self.slots, self.service, self.seed = slots, service, seed
        self.now = 0.0
        self.late_from = float("inf")
        self.told: list[Step] = []

    def samples(self, times: Sequence[float]) -> list[Sample]:
        return served(times, self.slots, lambda: self.service)

    def measure(self, rate: float, seconds: float, seed: int) -> Measured:
        samples = self.samples(list(arrivals(rate, seconds, 1000 * self.seed + seed)))
        self.now += max((each.ended for each in samples), default=seconds)
        return samples, ["it was late"] if rate >= self.late_from else []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def find(self, plan: Plan | None = None) -> Capacity:
        return find(
            self.measure,
            ("typical", TARGETS),
            plan or Plan(most_seconds=90, total_seconds=900),
            clock=lambda: self.now,
            sleep=self.sleep,
            told=self.told.append,
        )

    def knee(self) -> float:
        """From runs that are long enough to have no chance in them."""
        low, high = 0.5 * self.slots / self.service, 1.1 * self.slots / self.service
        while high / low > 1.005:
            middle = (low + high) / 2
            samples = self.samples(list(arrivals(middle, 30_000 / middle, 99)))
            is_met = all(
                sum(each.latency <= target.seconds for each in samples)
                >= target.share * len(samples)
                for target in TARGETS
            )
            low, high = (middle, high) if is_met else (low, middle)
        return low


@pytest.mark.parametrize("slots_and_service", [(4, 0.1), (32, 0.4), (2, 0.01)])
def test_the_knee_of_a_known_server_is_found_within_5_percent(
    slots_and_service: tuple[int, float],
) -> None:
    knee = Machine(*slots_and_service).knee()
    for seed in (1, 2, 3):
        machine = Machine(*slots_and_service, seed)
        found = machine.find()
        assert found.rate is not None
        assert found.above is not None
        assert found.rate == pytest.approx(knee, rel=0.05)
        assert found.ended == "time" or found.above / found.rate <= 1.03 + 1e-9
        assert found.rate_with_headroom == pytest.approx(HEADROOM * found.rate)
        assert machine.now <= 900 + 90  # the last step may take longer than it sends
        assert " met p" in found.limited_by


def test_the_curve_has_every_step_and_goodput_falls_behind_throughput() -> None:
    machine = Machine(4, 0.1)
    found = machine.find()
    assert found.steps == machine.told
    assert found.repeated >= 2
    beyond = max(found.steps, key=lambda step: step.rate)
    assert beyond.throughput == pytest.approx(40, rel=0.1)
    assert beyond.goodput < 0.8 * beyond.throughput
    assert beyond.p99 is not None
    assert beyond.p99 > 1


def test_a_server_that_is_never_fast_enough_has_no_capacity() -> None:
    found = Machine(8, 2.0).find(Plan(lowest_rate=0.5))
    assert (found.rate, found.ended) == (None, "none")
    assert found.above == 0.5
    assert found.rate_with_headroom is None


def test_a_search_ends_at_the_highest_rate() -> None:
    found = Machine(100, 0.001).find(Plan(highest_rate=50))
    assert (found.rate, found.above, found.ended) == (50, None, "highest")


def test_a_search_ends_with_its_time_and_says_so() -> None:
    machine = Machine(4, 0.1)
    found = machine.find(Plan(total_seconds=60))
    assert found.ended == "time"
    assert found.rate is not None
    assert found.rate < 40
    assert machine.now < 75


def test_a_rate_is_repeated_before_the_time_runs_out() -> None:
    found = Machine(32, 0.4).find(Plan(total_seconds=150, first_rate=8))
    assert found.ended == "time"
    assert found.repeated >= 2
    assert found.rate is not None
    assert 65 < found.rate < 80


def test_where_the_load_tester_is_late_the_server_is_not_blamed() -> None:
    machine = Machine(100, 0.01)
    machine.late_from = 100
    found = machine.find()
    assert found.rate is not None
    assert 80 <= found.rate < 100
    assert found.limited_by == "the load tester itself: it was late"


def step(rate: float, share: float, count: int = 1000) -> Step:
    ok = round(share * count)
    samples = [sample(n / rate, 0.1 if n < ok else 2.0) for n in range(count)]
    return step_of(Next(rate, count / rate, "climb"), samples, TARGETS, [])


def asked(*steps: Step) -> Next:
    found = next_step(steps, TARGETS, Plan())
    assert found is not None
    return found


def test_rates_are_doubled_then_the_gap_is_halved_then_both_ends_are_repeated() -> None:
    assert (asked().rate, asked().phase) == (4.0, "climb")
    assert asked(step(4, 1)).rate == 8
    middle = asked(step(4, 1), step(16, 0.5))
    assert (middle.rate, middle.phase) == (8, "halve")
    assert asked(step(4, 0.5)).rate == 2
    near = [step(100, 1), step(102, 0.5)]
    assert (asked(*near).rate, asked(*near).phase) == (100, "repeat")
    assert asked(*near, step(100, 1)).rate == 102
    assert next_step([*near, step(100, 1), step(102, 0.5)], TARGETS, Plan()) is None


def test_a_smaller_gap_is_measured_for_longer() -> None:
    wide = asked(step(25, 1), step(100, 0.5))
    narrow = asked(step(45, 1), step(50, 0.5))
    assert wide.seconds < narrow.seconds <= Plan().most_seconds


def test_a_step_in_which_the_load_tester_was_late_is_made_again() -> None:
    late = structs.replace(step(8, 0.1), invalid_because=["it was late"])
    again = asked(step(4, 1), late)
    assert (again.rate, again.phase) == (8, "repeat")
    assert asked(step(4, 1), late, step(8, 1)).rate == 16
    assert asked(step(4, 1), late, late, late).phase == "halve"


def test_an_end_that_was_chance_is_moved() -> None:
    chance = [step(100, 1), step(102, 0.94), step(100, 1), step(102, 1)]
    up = asked(*chance)
    assert (up.rate, up.phase) == (127.5, "climb")
    down = asked(step(50, 1), step(100, 1), step(102, 0.5), step(100, 0.8))
    assert 50 < down.rate < 100


def test_errors_and_what_is_shed_do_not_meet_a_target() -> None:
    good = [sample(n / 10, 0.1) for n in range(90)]
    shed = [sample(1, 0.01, "refused", error="429 overloaded") for _ in range(6)]
    broken = [sample(1, 0.01, "error", error="connect") for _ in range(4)]
    left = [sample(1, 9, "cancelled") for _ in range(50)]
    found = step_of(Next(10, 10, "climb"), [*good, *shed, *broken, *left], TARGETS, [])
    assert (found.count, found.refused, found.errors) == (100, 6, 4)
    assert found.meets == [0.9, 0.9]


def test_a_step_has_the_figures_of_its_answers() -> None:
    good = [sample(n / 10, (n + 1) / 100) for n in range(100)]
    found = step_of(Next(10, 5, "climb"), good[::-1], TARGETS, ["it was late"])
    assert (found.p50, found.p95, found.p99) == pytest.approx((0.5, 0.95, 0.99))
    assert found.meets == [0.5, 1.0]
    ended = sum(each.ended <= 5 for each in good)
    assert (found.throughput, found.goodput) == (ended / 5, ended / 5)
    assert found.invalid_because == ["it was late"]
    assert [target.name for target in TARGETS] == ["p50 in 500 ms", "p95 in 1,000 ms"]


def test_targets_are_those_a_short_run_can_tell_about() -> None:
    assert targets_of(load_slo().workloads["typical"]) == list(TARGETS)
    mixed = Workload(
        scenarios=["short"],
        latency_ms={"p99": 1500, "p95": 1000, "p50": 500},
        requests_per_second=1,
        error_rate=0.01,
    )
    assert targets_of(mixed) == list(TARGETS)
    only_p99 = Workload(
        scenarios=["long"], latency_ms={"p99": 2000}, requests_per_second=1, error_rate=0.01
    )
    assert targets_of(only_p99) == [Target(0.95, 2.0)]
