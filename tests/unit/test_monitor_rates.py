"""What the monitor makes of counters that grow and start anew, and of buckets."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.terminal.exposition import Exposition, Labels, Series
from monitoring.terminal.quantiles import quantile
from monitoring.terminal.rates import START_TIME, Window, growth, is_another, together

X: Labels = (("of", "x"),)
Y: Labels = (("of", "y"),)
KINDS = {"c": "counter", "h": "histogram", "g": "gauge"}


def exposition(**series: float) -> Exposition:
    """The counter c by label: `x`, `y`; `g` is a gauge."""
    counters: dict[Labels, float] = {
        (("of", name),): value for name, value in series.items() if name != "g"
    }
    return Exposition(KINDS, {"c": counters, "g": {(): series.get("g", 0.0)}})


def test_a_counter_grows() -> None:
    assert growth(exposition(x=5, y=1), exposition(x=8, y=1)) == {"c": {X: 3, Y: 0}}


def test_a_new_series_began_at_zero() -> None:
    assert growth(exposition(x=5), exposition(x=5, y=4)) == {"c": {X: 0, Y: 4}}


def test_after_a_restart_everything_is_new() -> None:
    """y would look as if it had grown by one, and it has grown by three."""
    assert growth(exposition(x=5, y=2), exposition(x=1, y=3)) == {"c": {X: 1, Y: 3}}


def test_a_series_that_is_gone_is_a_restart() -> None:
    assert growth(exposition(x=5, y=2), exposition(y=3)) == {"c": {Y: 3}}


def test_a_gauge_may_fall() -> None:
    assert growth(exposition(x=5, g=9), exposition(x=6, g=1)) == {"c": {X: 1}}


def test_a_histogram_s_sum_may_fall_without_a_restart() -> None:
    def histogram(count: float, total: float) -> Exposition:
        inf: Labels = (("le", "+Inf"),)
        return Exposition(
            KINDS, {"h_bucket": {inf: count}, "h_count": {(): count}, "h_sum": {(): total}}
        )

    grown = growth(histogram(5, 10.0), histogram(6, 8.0))
    assert grown["h_count"] == {(): 1}
    assert grown["h_sum"] == {(): -2.0}


@given(
    st.lists(
        st.one_of(st.none(), st.tuples(st.integers(0, 50), st.integers(0, 50))),
        min_size=1,
        max_size=20,
    )
)
def test_over_restarts_nothing_is_counted_twice_or_below_zero(
    steps: list[tuple[int, int] | None],
) -> None:
    """None is a restart. Only what was counted between the last look and the restart is lost."""
    window = Window(1e9)
    x = y = 10
    window.add(0.0, exposition(x=x, y=y))
    counted = 0
    for moment, step in enumerate(steps, 1):
        if step is None:
            x = y = 0
        else:
            x, y = x + step[0], y + step[1]
            counted += sum(step)
        window.add(float(moment), exposition(x=x, y=y))
        last = window.last_step()
        assert last is not None
        assert min(last.series["c"].values()) >= 0
    grown = window.growth()
    assert grown is not None
    assert sum(grown.series["c"].values()) == counted


def test_a_window_forgets_what_is_older() -> None:
    window = Window(10.0)
    for moment in range(30):
        window.add(float(moment), exposition(x=moment * 2))
    grown = window.growth()
    assert grown is not None
    assert (grown.began, grown.ended) == (19.0, 29.0)
    assert grown.series["c"] == {X: 20}


def test_restarts_are_counted_as_long_as_they_are_in_the_window() -> None:
    """Two gateways that answer in turn look like one that starts anew all the time."""
    window = Window(10.0)
    for moment in range(10):
        window.add(float(moment), exposition(x=100 if moment % 2 else 200))
    grown = window.growth()
    assert grown is not None
    assert grown.restarts == 5
    for moment in range(10, 30):
        window.add(float(moment), exposition(x=300))
    grown = window.growth()
    assert grown is not None
    assert grown.restarts == 0


def test_a_window_keeps_the_last_step_however_long_it_was() -> None:
    window = Window(10.0)
    assert window.growth() is None
    window.add(0.0, exposition(x=1))
    assert window.growth() is None
    window.add(100.0, exposition(x=3))
    grown = window.growth()
    assert grown is not None
    assert (grown.began, grown.series["c"]) == (0.0, {X: 2})
    window.add(200.0, exposition(x=7))
    grown = window.growth()
    assert grown is not None
    assert (grown.began, grown.series["c"]) == (100.0, {X: 4})


INF = math.inf


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {1.0: 0, 2.0: 10, INF: 10}, 1.5),
        (0.95, {1.0: 0, 2.0: 10, INF: 10}, 1.95),
        (0.5, {1.0: 10, 2.0: 10, INF: 10}, 0.5),  # from 0, in the lowest
        (0.5, {1.0: 5, 2.0: 10, INF: 10}, 1.0),
        (0.99, {1.0: 5, 2.0: 5, INF: 10}, 2.0),  # beyond the last finite bound
        (1.0, {1.0: 4, 2.0: 8, INF: 8}, 2.0),
        (0.0, {1.0: 4, INF: 4}, 0.0),
        (0.5, {1.0: 1, INF: 1}, 0.5),
        (0.5, {-1.0: 4, INF: 4}, -1.0),
        (0.75, {1.0: 4, 2.0: 3, 4.0: 8, INF: 8}, 3.0),  # read while it was written to
    ],
)
def test_a_quantile_as_prometheus_has_it(
    share: float, buckets: dict[float, float], value: float
) -> None:
    assert quantile(share, buckets) == pytest.approx(value)


@pytest.mark.parametrize("buckets", [{}, {INF: 5}, {1.0: 0, INF: 0}, {1.0: 5, 2.0: 5}])
def test_there_is_no_quantile_of_nothing(buckets: dict[float, float]) -> None:
    assert quantile(0.5, buckets) is None


BOUNDS = (0.1, 0.2, 0.5, 1.0, 2.0)


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_within_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    buckets = {bound: float(sum(v <= bound for v in values)) for bound in BOUNDS}
    found = quantile(share, buckets | {INF: float(len(values))})
    true = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    place = bisect_left(BOUNDS, true)
    assert found is not None
    assert (0.0, *BOUNDS)[place] - 1e-9 <= found <= BOUNDS[place] + 1e-9


@pytest.mark.parametrize(
    ("before", "after", "asked", "is_so"),
    [
        (100.0, 100.0, 500.0, False),
        (100.0, 600.0, 500.0, False),  # it was started anew since
        (100.0, 300.0, 500.0, True),
        (300.0, 100.0, 500.0, True),
        (None, 100.0, 500.0, False),  # of an older version
    ],
)
def test_another_gateway_was_there_before_the_last_look(
    before: float | None, after: float, asked: float, is_so: bool
) -> None:
    def of(began: float | None) -> Exposition:
        return Exposition({}, {} if began is None else {START_TIME: {(): began}})

    assert is_another(of(before), of(after), asked) == is_so


def test_what_all_gateways_say_is_said_once() -> None:
    queued, model = (("state", "queued"),), (("model", "m"),)
    parts: list[Series] = [
        {
            "llm_gateway_jobs": {queued: jobs},
            "llm_gateway_oldest_queued_seconds": {model: oldest},
            "llm_gateway_slots_busy": {model: busy},
        }
        for jobs, oldest, busy in ((7.0, 3.0, 2.0), (7.0, 1.0, 4.0))
    ]
    assert together(parts) == {
        "llm_gateway_jobs": {queued: 7.0},
        "llm_gateway_oldest_queued_seconds": {model: 3.0},
        "llm_gateway_slots_busy": {model: 6.0},
    }
