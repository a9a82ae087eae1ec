"""The rules are what the generator makes of slo.yaml, and speak of what exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server.observability.metrics import FAMILIES
from api_server.settings import REPOSITORY
from monitoring.alerts import BURNS, RUNBOOKS, alert_groups
from monitoring.generating import write
from monitoring.rules import FOLDER, rule_files
from monitoring.slo import Slo, SloError, load_slo
from tests.dashboards import MONITORING, metrics_in
from tests.real_metrics import real, recorded

PAGE = (REPOSITORY / RUNBOOKS).read_text()


def committed(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = committed("alerts.yml")
RULES = [*committed("recording.yml"), *ALERTS]


def changed(**workload: Any) -> Slo:
    """Today's promise, but for this."""
    document = load_slo().model_dump()
    document["workloads"]["typical"] |= workload
    return Slo.model_validate(document)


def alerts_of(slo: Slo, name: str, **labels: str) -> list[dict[str, Any]]:
    groups: list[Any] = alert_groups(slo)
    every = [rule for group in groups for rule in group["rules"] if rule["alert"] == name]
    return [rule for rule in every if labels.items() <= rule["labels"].items()]


def test_the_files_are_what_the_generator_writes() -> None:
    files = rule_files(load_slo())
    assert {path.name for path in FOLDER.iterdir()} == set(files)
    for name, text in files.items():
        assert (FOLDER / name).read_text() == text, "run `make rules`"


def test_what_is_left_over_goes(tmp_path: Path) -> None:
    for old in ("old.yml", "README.md"):
        (tmp_path / old).touch()
    files = rule_files(load_slo())
    write(tmp_path, files)
    assert {path.name for path in tmp_path.iterdir()} == {*files, "README.md"}
    assert {name: (tmp_path / name).read_text() for name in files} == files


def test_prometheus_reads_them() -> None:
    config = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
    found = [path for each in config["rule_files"] for path in FOLDER.parent.glob(each)]
    assert {path.name for path in found} == set(rule_files(load_slo()))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_a_rule_asks_for_metrics_that_exist(rule: Any) -> None:
    names = metrics_in(rule["expr"])
    assert names
    assert names <= real() | recorded()


def test_a_made_up_metric_would_be_noticed() -> None:
    assert not metrics_in("sum(rate(llm_gateway_made_up_total[5m])) > 0") <= real() | recorded()


def test_labels_of_rules_exist_too() -> None:
    """An alert on a label that no series has would never fire."""
    known = {"le", "job", "percentile", "proxy"}
    for family in FAMILIES:
        known |= set(family.labels)
    for rule in RULES:
        for matchers in re.findall(r"\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", matchers)) <= known, rule


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_read(rule: Any) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    notes = rule["annotations"]
    assert min(len(notes["summary"]), len(notes["description"])) > 15
    path, _, anchor = notes["runbook_url"].partition("#")
    assert path == RUNBOOKS
    assert anchor in [heading.lower() for heading in re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)]


def test_every_runbook_has_its_alert_and_says_what_to_do() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert [each.splitlines()[0] for each in sections] == list(
        dict.fromkeys(rule["alert"] for rule in ALERTS)
    )
    for section in sections:
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert section.count(part) == 1, section.splitlines()[0]


def test_a_runbook_asks_for_metrics_that_exist() -> None:
    names = set(re.findall(r"`((?:llm_gateway|gen_ai|llamacpp|DCGM|haproxy)[\w:]*)[`{\[]", PAGE))
    assert len(names) > 10
    assert names <= real() | {family.name for family in FAMILIES}


def test_the_docs_name_series_that_are_recorded() -> None:
    page = (REPOSITORY / "docs/metrics.md").read_text()
    names = set(re.findall(r"`((?:stack|model):[\w:]+)`", page))
    assert len(names) > 5
    assert names <= recorded()


def test_budgets_that_cannot_go_so_fast_have_no_alert() -> None:
    windows = {
        percentile: [
            rule["labels"]["window"]
            for rule in alerts_of(load_slo(), "LatencyBudgetBurn", percentile=percentile)
        ]
        for percentile in ("p50", "p95", "p99")
    }
    every = [long for long, *_ in BURNS]
    assert windows == {"p50": ["3d"], "p95": every, "p99": every}


def test_thresholds_follow_the_file() -> None:
    slo = changed(error_rate=0.01, latency_ms={"p95": 2000})
    assert {rule["labels"]["percentile"] for rule in alerts_of(slo, "LatencyBudgetBurn")} == {"p95"}
    (fast,) = alerts_of(slo, "ErrorBudgetBurn", window="1h")
    assert "stack:errors:ratio1h > 0.144 and stack:errors:ratio5m > 0.144" in fast["expr"]
    text = rule_files(slo)["recording.yml"]
    assert 'le=~"2(\\\\.0)?"' in text
    assert 'percentile="p99"' not in text


def test_other_windows_of_the_budget() -> None:
    slo = Slo.model_validate(load_slo().model_dump() | {"window_days": 7})
    text = rule_files(slo)["recording.yml"]
    assert "stack:errors:rate5m[7d]" in text
    assert "[30d]" not in text


def test_a_file_without_the_promise_is_an_error() -> None:
    document = load_slo().model_dump()
    document["workloads"] = {"other": document["workloads"]["typical"]}
    with pytest.raises(SloError, match="typical"):
        rule_files(Slo.model_validate(document))


def test_a_target_that_no_bucket_ends_at_is_an_error() -> None:
    """A rule that matches no bucket gives nothing: no alert, whatever happens."""
    with pytest.raises(SloError, match=r"latency_ms: 800 is not where a bucket .*: .* 750, 900"):
        rule_files(changed(latency_ms={"p95": 800}))
