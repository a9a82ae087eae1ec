"""The report: where time went adds up, tables are whole, pages need nothing from elsewhere."""

import csv
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from load_tests.report.curves import together
from load_tests.report.pictures import distribution, nothing, piece_seconds
from load_tests.report.schemas import FOLDER, SCHEMAS, text_of
from load_tests.report.svg import Scale, apart, label, nice, scale_for
from load_tests.report.tables import by_scenario, by_second
from load_tests.report.where import PARTS, split, splits
from load_tests.report.words import milliseconds, number, share
from load_tests.report.writing import (
    CAPACITY,
    PAGE,
    VERDICTS,
    CapacityError,
    read_capacity,
    verdicts_of,
    write_report,
)
from load_tests.results import RESULT, write_result
from monitoring.slo import load_slo
from tests.load_reports import REPORTS, answers, knee, write_reports
from tests.load_samples import result_of, sample


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_reports(folder)
    return folder


class Document(HTMLParser):
    """Elements in their order; a mistake in nesting is a failure."""

    VOID = ("meta", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_whole_and_needs_nothing_from_elsewhere(reports: Path, name: str) -> None:
    text = (reports / name / PAGE).read_text()
    document = Document(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(document.names)
    assert document.addresses == []
    assert "url(" not in text
    assert "@import" not in text
    assert "nan" not in re.sub("<style>.*</style>", "", text, flags=re.DOTALL).lower()
    assert len(text) < 300_000


def test_the_verdict_is_on_top_in_words(reports: Path) -> None:
    def page(name: str) -> str:
        return (reports / name / PAGE).read_text()

    assert "Yes. The promise for typical holds at 25 requests per second." in page("kept")
    assert "Unknown. Too few requests to tell" in page("fast")
    assert "latency p99: cannot be told (200 answers, 299 are needed)" in page("fast")
    assert "No. The promise for typical does not hold" in page("unanswered")
    assert "No. " not in page("broken")
    assert "Not valid. This run does not count" in page("broken")
    assert "NOT VALID" in page("broken")
    assert "NOT VALID" not in page("kept")
    assert "The knee is at 38" in page("knee")


def test_what_others_wrote_is_text_and_no_markup(tmp_path: Path) -> None:
    bad = [*answers(1, 50), sample(1, 1, "error", error="<script>alert('1')</script>&")]
    result = result_of(bad, seconds=2, model="<b>", faults=["<i>late</i>"])
    write_report(tmp_path, load_slo(), result=result, samples=bad)
    document = Document((tmp_path / PAGE).read_text())
    assert not {"script", "b", "i"} & set(document.names)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_are_those_of_the_types(name: str) -> None:
    """`python -m load_tests.report.schemas` writes them anew."""
    assert (FOLDER / name).read_text() == text_of(name)


def test_files_are_as_their_schemas_say(tmp_path: Path) -> None:
    samples = answers(1, 400)
    result = result_of(samples, seconds=16)
    write_result(result, samples, tmp_path)
    write_report(tmp_path, load_slo(), result=result, samples=samples, capacity=knee())
    for file, schema in (
        (RESULT, "result.schema.json"),
        (VERDICTS, "verdicts.schema.json"),
        (CAPACITY, "capacity.schema.json"),
    ):
        content = json.loads((tmp_path / file).read_text())
        rules = json.loads((FOLDER / schema).read_text())
        jsonschema.Draft202012Validator(rules).validate(content)
        broken = {**content, "schema_version": "x"} if isinstance(content, dict) else [{}]
        assert not jsonschema.Draft202012Validator(rules).is_valid(broken)


def test_a_capacity_is_read_again_and_another_file_is_an_error(tmp_path: Path) -> None:
    write_report(tmp_path, load_slo(), capacity=knee())
    assert read_capacity(tmp_path) == knee()
    (tmp_path / CAPACITY).write_text("{}")
    with pytest.raises(CapacityError, match=CAPACITY):
        read_capacity(tmp_path)


def test_tables_have_every_scenario_and_every_second() -> None:
    samples = [*answers(1, 200), sample(2, 0.1, "error", scenario="long", error="connect")]
    result = result_of(samples, seconds=8)
    rows = list(csv.DictReader(io.StringIO(by_scenario(result))))
    assert [row["scenario"] for row in rows] == ["medium", "short", "long", "all"]
    total = rows[-1]
    assert (total["count"], total["ok"], total["errors"]) == ("201", "200", "1")
    assert float(total["latency_p95_seconds"]) == pytest.approx(
        result.total.latency.p95 if result.total.latency else 0, abs=1e-6
    )
    assert rows[2]["latency_p95_seconds"] == ""
    seconds = list(csv.DictReader(io.StringIO(by_second(result))))
    assert sum(int(row["ok"]) for row in seconds) == 200
    assert "p95_seconds" in seconds[0]


def test_the_parts_of_an_answer_add_up_to_what_the_client_waited() -> None:
    for each in answers(1, 50):
        assert sum(split(each)) == pytest.approx(each.latency)
    stages = {"queue": 0.1, "engine": 0.3, "gateway": 0.01}
    stream = sample(0, 1.0, first_token=0.45, stages=stages, prompt_seconds=0.2, decode_seconds=0.5)
    assert split(stream) == pytest.approx([0, 0.1, 0.01, 0.1, 0.2, 0.5, 0.09])
    stages["engine"] = 0.85
    plain = sample(0, 1.0, stages=stages, prompt_seconds=0.2, decode_seconds=0.5)
    assert split(plain) == pytest.approx([0, 0.1, 0.01, 0.15, 0.2, 0.5, 0.04])
    silent = sample(0, 1.0, first_token=0.45, stages={"engine": 0.3})
    assert split(silent) == pytest.approx([0, 0, 0, 0, 0.3, 0.55, 0.15])


def test_clocks_that_do_not_agree_never_make_less_than_nothing() -> None:
    odd = sample(0, 0.1, first_token=0.05, stages={"engine": 0.05}, prompt_seconds=0.05)
    for decode in (0.0501, 0.09, 5.0):
        parts = split(
            sample(
                0,
                0.1,
                first_token=0.05,
                stages=odd.stages,
                prompt_seconds=0.05,
                decode_seconds=decode,
            )
        )
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(0.1)


def test_what_says_nothing_of_its_time_is_left_out() -> None:
    assert splits([sample(0, 1.0), sample(0, 1, "error", stages={"queue": 1.0})]) == []
    assert [each.scenario for each in splits(answers(1, 10))] == ["medium", "short"]
    assert len(splits(answers(1, 10))[0].seconds) == len(PARTS)


def test_a_workload_is_judged_only_if_all_of_it_was_run() -> None:
    samples = answers(1, 100)
    slo = load_slo()
    both = result_of(samples, seconds=4, scenarios={"short": 1.0, "medium": 1.0, "long": 2.0})
    assert [verdict.rate for verdict in verdicts_of(slo, both, samples)] == [12.5]
    short = result_of(samples, seconds=4, scenarios={"short": 1.0})
    assert verdicts_of(slo, short, samples) == []


def test_no_picture_of_nothing() -> None:
    assert distribution([], {}).draw is None
    assert "no latency" in distribution([sample(0, 1, "error")], {}).caption
    assert nothing("Title", "Why").draw is None


def test_targets_far_away_are_told_and_not_drawn() -> None:
    picture = distribution(answers(0.01, 100), {50.0: 0.5})
    assert picture.draw is not None
    assert "target" not in picture.draw(600)
    assert "Far to the right of the picture: targets of 500 ms." in picture.caption


def test_pieces_of_a_timeline_have_enough_in_them() -> None:
    assert piece_seconds(6000, 60) == 1
    assert piece_seconds(60, 60) == 8
    assert piece_seconds(100_000, 3600) == 36


def test_one_step_a_rate_is_drawn_the_longest() -> None:
    steps = together(knee().steps)
    assert [step.rate for step in steps] == sorted({step.rate for step in knee().steps})


def test_scales_and_their_ticks() -> None:
    even = Scale(0, 100, 0, 200)
    assert even.at(50) == 100
    assert even.at(500) == 200
    assert even.ticks(6) == [0, 20, 40, 60, 80, 100]
    log = scale_for([0.001, 1.0], 0, 100, may_be_log=True)
    assert log.is_log
    assert log.ticks(5) == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert not scale_for([0.5, 1.0], 0, 100, may_be_log=True).is_log
    assert scale_for([], 0, 100).high > 0
    assert [nice(each) for each in (0.03, 1, 7, 12)] == pytest.approx([0.05, 1, 10, 20])


def test_labels_keep_apart_and_inside() -> None:
    places = apart([10, 11, 12, 100], 13, 0, 100)
    ordered = sorted(places)
    assert all(after - before >= 13 - 1e-9 for before, after in itertools.pairwise(ordered))
    assert max(apart([98, 99, 100], 13, 0, 100)) <= 100
    assert "&lt;b&gt;" in label("<b>", 1, 2)


def test_numbers_have_their_units() -> None:
    assert [milliseconds(each) for each in (None, 0, 0.0012, 0.95, 1.5, 12.34, 2000)] == [
        *("-", "0 ms", "1.2 ms", "950 ms", "1,500 ms", "12.3 s", "2,000 s"),
    ]
    assert [number(each) for each in (1, 0.5, 1234.5, 38.94)] == ["1", "0.5", "1,234", "38.9"]
    assert (share(None), share(0.001), share(1)) == ("-", "0.1 %", "100 %")
