"""The monitor's parser of Prometheus' format, beside that of Prometheus' own client."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api_server.observability.metrics import Metrics
from api_server.observability.numbers import Numbers
from monitoring.terminal.exposition import ExpositionError, parse

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def ours(text: str) -> Found:
    series = parse(text).series
    return {
        (name, labels): value for name, each in series.items() for labels, value in each.items()
    }


def theirs(text: str) -> Found:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def same(one: Found, other: Found) -> bool:
    return one.keys() == other.keys() and all(
        value == other[key] or (math.isnan(value) and math.isnan(other[key]))
        for key, value in one.items()
    )


LABEL_VALUES = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(LABEL_VALUES, LABEL_VALUES, NUMBERS), max_size=6), st.floats(0, 1e9))
def test_what_the_official_client_writes_is_read_as_it_reads_it(rows: Any, counted: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g_rows", 'Some: {a="b"} 1 \\ text', ["a", "b"], registry=registry)
    for one, other, value in rows:
        gauge.labels(one, other).set(value)
    Counter("c", "Counted.", registry=registry).inc(counted)
    histogram = Histogram("h_seconds", "Took.", ["kind"], buckets=(0.1, 1, 10), registry=registry)
    histogram.labels("x").observe(0.5)
    text = generate_latest(registry).decode()
    assert same(ours(text), theirs(text))
    assert parse(text).kinds["h_seconds"] == "histogram"


def test_what_a_gateway_writes_is_read_as_the_official_client_reads_it() -> None:
    metrics = Metrics(["tiny", "large"], Numbers())
    metrics.shed("tiny", "queue_full")
    metrics.replica_sound("tiny", "http://127.0.0.1:8081", is_sound=False)
    text = metrics.render().decode()
    assert ours(text) == theirs(text)
    assert len(ours(text)) > 20


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("a 1", ("a", ()), 1.0),
        ("a{} 2.5e-3", ("a", ()), 0.0025),
        ('a{b="c",} 3 1700000000000', ("a", (("b", "c"),)), 3.0),
        ('a { z = "1" , b = "2" }  4', ("a", (("b", "2"), ("z", "1"))), 4.0),
        (r'a{b="\\\"\n}"} 5', ("a", (("b", '\\"\n}'),)), 5.0),
        ('a{b="1, c=2} 3"} 6', ("a", (("b", "1, c=2} 3"),)), 6.0),
        ("a:b_c +Inf", ("a:b_c", ()), math.inf),
        ("\ta -Inf \r", ("a", ()), -math.inf),
    ],
)
def test_a_sample(line: str, key: Any, value: float) -> None:
    assert ours(line) == {key: value}


def test_no_number_is_no_number() -> None:
    assert math.isnan(ours("a NaN")[("a", ())])


def test_comments_and_empty_lines_are_passed_over() -> None:
    assert ours("# anything\n\n#\n# HELP a b\n# EOF\n") == {}


@pytest.mark.parametrize(
    "line",
    [
        *("a", "abc12", "1a 2", "a b", "a 1 2 3", "a 1_000", "{} 1", '{a="b"} 1'),
        *('a{b="c" 1', "a{b=c} 1", 'a{b="c" d="e"} 1', 'a{="c"} 1', "a{b} 1", "<html>"),
    ],
)
def test_what_is_no_sample_is_said_with_its_line(line: str) -> None:
    with pytest.raises(ExpositionError, match="line 2"):
        parse(f"a 1\n{line}\n")
