"""The benchmark's arithmetic, its table, and what it reads in /proc."""

import math

import pytest
import yaml

from benchmarks import machine
from benchmarks.bench import BenchError, Cores, choose_cores
from benchmarks.exchanges import lengths_around
from benchmarks.figures import (
    HEADER,
    Measurement,
    Memory,
    Row,
    added_ms,
    beside,
    percentile,
    table,
)
from benchmarks.targets import stack_file

STAT = (
    "4242 (a (strange) name) S 1 4242 4240 0 -1 4194560 1 0 0 0 150 50 7 8 20 0 3 0 99 1000 200 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0"
)
MACHINE_STAT = "cpu  1000 100 500 8000 200 30 20 150 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"


def measurement(plain: float, p50: float = 1.0, process: bool = True) -> Measurement:
    return Measurement(
        plain_per_second=plain,
        cpu_us_per_request=100.0 if process else None,
        p50_ms=p50,
        p99_ms=p50 * 3,
        cpu_us_per_token=20.0 if process else None,
        tokens_per_second=plain * 2,
        first_token_ms=1.5,
        peak_mib=50.0 if process else None,
    )


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 5), (90, 9), (91, 10), (99, 10), (100, 10)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([3, 1, 2, 10, 9, 8, 7, 6, 5, 4], percent) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.5], 99) == 7.5


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_added_latency_compares_within_a_round() -> None:
    direct = [measurement(1, p50=1), measurement(1, p50=5), measurement(1, p50=2)]
    ours = [measurement(1, p50=1.5), measurement(1, p50=5.25), measurement(1, p50=9)]
    assert added_ms(ours, direct, lambda m: m.p50_ms) == 0.5


def test_two_rows_are_compared_within_a_round() -> None:
    one = Row("**ours**", (measurement(100), measurement(200), measurement(400)))
    four = Row("ours, 4", (measurement(90), measurement(100), measurement(400)))
    assert beside(four, one) == (
        "ours, 4, by ours: plain req/s 0.90, CPU/req 1.00, CPU/token 1.00, tokens/s 0.90"
    )
    bare = Row("direct", (measurement(100, process=False),))
    assert "CPU/req -, CPU/token -" in beside(bare, Row("ours", (measurement(100),)))


def test_four_replicas_are_four_addresses() -> None:
    (model,) = yaml.safe_load(stack_file(8000, 4))["models"]
    assert model["replicas"] == [f"http://127.0.0.{n}:8000" for n in (1, 2, 3, 4)]
    assert len(yaml.safe_load(stack_file(8000, 1))["models"][0]["replicas"]) == 1


def test_table_shows_medians_ratios_and_failures() -> None:
    direct = Row("direct", tuple(measurement(n, process=False) for n in (900, 1000, 5000)))
    ours = Row("ours", tuple(measurement(n, p50=1.25) for n in (250, 300, 200)))
    lines = table([direct, ours, Row("peer", failure="would not start")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == HEADER
    assert cells[2] == [
        "direct",
        "1,000",
        "1.00",
        "-",
        "0.00",
        "0.00",
        "-",
        "2,000",
        "1.00",
        "1.5",
        "-",
    ]
    assert cells[3] == [
        "ours",
        "250",
        "0.25",
        "100",
        "0.25",
        "0.75",
        "20",
        "500",
        "0.25",
        "1.5",
        "50",
    ]
    assert cells[4][:3] == ["peer", "not measured", "-"]


def test_memory_says_how_much_is_left_over() -> None:
    text = str(Memory(200, 20_000, 50 * 2**20, 52 * 2**20, 60 * 2**20, seconds=100))
    assert "50.0 MiB before, 52.0 MiB after (+2.0), peak 60.0 MiB; 40,000 tokens/s" in text


def test_process_stat_is_read_behind_a_strange_name() -> None:
    assert machine.parse_process_stat(STAT, 100) == machine.ProcessTime(4240, 2.0)


def test_status_sizes_are_bytes() -> None:
    text = "Name:\tpython\nVmHWM:\t   61440 kB\nVmRSS:\t   51200 kB\n"
    assert machine.parse_status_bytes(text, "VmRSS") == 50 * 2**20
    assert machine.parse_status_bytes(text, "VmHWM") == 60 * 2**20
    assert machine.parse_status_bytes("Name:\tgone\n", "VmRSS") == 0


def test_machine_stat_is_read_in_seconds() -> None:
    time = machine.parse_machine_stat(MACHINE_STAT, 100)
    assert (time.programs, time.stolen, time.total) == (16.0, 1.5, 100.0)


def test_cpu_model_is_found() -> None:
    assert machine.parse_cpu_model("processor : 0\nmodel name\t: Fast 9000\n") == "Fast 9000"
    assert machine.parse_cpu_model("") == "an unknown CPU"


def test_a_busy_machine_is_said_with_figures() -> None:
    assert machine.load_warning(others=0.1, stolen=0.1, total=100) is None
    assert "other programs used 25%" in (machine.load_warning(25, 0, 100) or "")
    assert "other guests 9%" in (machine.load_warning(0, 9, 100) or "")


def test_own_process_can_be_read() -> None:
    pids = machine.session_members(machine.parse_process_stat(_own("stat")).session)
    assert machine.cpu_seconds(pids) > 0
    assert machine.memory_bytes(pids) > 2**20
    assert machine.memory_bytes(pids, "VmHWM") >= machine.memory_bytes(pids[:1])
    assert not math.isnan(machine.machine_time().total)


def _own(name: str) -> str:
    return (machine.PROC / "self" / name).read_text()


def test_one_core_is_refused_with_the_reason() -> None:
    with pytest.raises(BenchError, match="two cores"):
        choose_cores([3])
    assert choose_cores([7, 2, 5]) == Cores(target=7, harness=2)


def test_stream_lengths_differ_and_keep_their_mean() -> None:
    lengths = lengths_around(200, 4)
    found = [next(lengths) for _ in range(15)]
    assert len(set(found)) == 15
    assert min(found) == 100
    assert max(found) == 300
    assert abs(sum(found) / 15 - 200) < 1
