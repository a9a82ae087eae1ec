"""What counts until when, whose share is what, and what clients read of it."""

import random

import pytest

from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from api_server.schemas.apps import App, Limits, Policy, RateLimit
from api_server.services.quotas.headers import duration
from api_server.services.quotas.rules import make_rules, rules_of
from api_server.services.quotas.window import Window, frees_at, share


def test_a_unit_counts_as_long_as_it_must_and_hardly_longer() -> None:
    window = Window(100)
    window.add(50.0, 3)
    window.add(60.1, 2)
    assert window.count(49.99) == 5
    assert window.count(50.0) in (2, 5)
    assert window.count(50.26) == 2
    assert window.count(60.36) == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_window_is_right_for_any_sequence_and_bounded(seed: int) -> None:
    chance = random.Random(seed)
    window, model, now = Window(10), [], 0.0
    for _ in range(3000):
        now += chance.expovariate(50)
        until, units = now + chance.uniform(5, 10), chance.randint(1, 9)
        window.add(until, units)
        model += [until] * units
        counted = window.count(now)
        assert sum(each > now for each in model) <= counted
        assert counted <= sum(each + 0.025 > now for each in model)
        assert len(list(window.entries())) <= 402
    assert window.total == sum(units for _, units in window.entries())
    newest = max(until for until, _ in window.entries())
    assert window.remove(window.total - 1) == counted - 1
    assert [units for _, units in window.entries()] == [1]
    assert next(window.entries())[0] < newest
    assert window.remove(5) == 1


def test_shares_are_never_more_than_the_whole() -> None:
    for units in range(-2, 30):
        for processes in range(1, 9):
            shares = [share(units, processes, index) for index in range(processes)]
            assert sum(shares) == max(0, units)
            assert max(shares) - min(shares) <= 1
            assert share(units, processes, None) == min(shares)


def test_when_units_come_free_is_found_over_both_windows() -> None:
    others, own = Window(100), Window(100)
    others.add(20, 5)
    others.add(40, 4)
    own.add(30, 1)
    assert frees_at(10, 1, others, Window(100)) == 20
    assert frees_at(10, 10, others, Window(100)) == 40
    assert frees_at(10, 11, others, own) is None
    assert frees_at(10, 5, others, own, 2, 0) == 40, "half of what the others leave"


def test_of_two_rates_over_one_period_the_lower_counts_and_keys_hold_no_limit() -> None:
    rates = [RateLimit(100, 60), RateLimit(5, 1), RateLimit(50, 60)]
    one, two, three = make_rules("app_1", None, rates, 1000)
    assert (one.limit, one.key) == (5, "limits:app_1:requests:1")
    assert (two.limit, two.key) == (50, "limits:app_1:requests:60")
    assert (three.kind, three.key) == ("tokens", "limits:app_1:tokens:60")


def test_what_is_lost_of_a_period_stays_below_three_percent() -> None:
    for seconds in (1, 2, 3, 10, 60, 3600, 86400):
        (rule,) = make_rules("app_1", None, [RateLimit(10, seconds)])
        assert rule.counts_seconds <= 1.02 * seconds


def test_a_models_limits_come_on_top_of_the_apps() -> None:
    limits = Limits(concurrent_requests=2)
    app = App("app_1", "a", Policy(rate_limits=["10/minute"], limits_by_model={"m": limits}))
    assert [rule.what for rule in rules_of(app, None)] == ["10 requests in 60 s"]
    assert [rule.key for rule in rules_of(app, "m")] == ["limits:app_1:concurrent:m"]
    assert rules_of(app, "other") == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0ms"), (0.02, "20ms"), (0.0201, "21ms"), (1, "1s"), (1.5, "1.5s")],
        *[(59.9999, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")],
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_refusals_are_counted_by_kind_only() -> None:
    metrics = Metrics([], Numbers())
    metrics.limited("tokens")
    assert b'llm_gateway_limited_total{limit="tokens"} 1' in metrics.render()
