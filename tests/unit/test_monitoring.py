"""What Prometheus asks and Grafana shows is there to be asked and shown."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from api_server.settings import REPOSITORY
from api_server.stores.readers import READABLE, ROLE
from monitoring.dashboards import dashboard_files
from monitoring.slo import Slo, load_slo
from tests.dashboards import (
    DASHBOARDS,
    MONITORING,
    Panel,
    dashboard,
    metrics_in,
    panels,
    plain_sql,
)
from tests.real_metrics import real, recorded

ALL_PANELS = list(panels())


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (le) (rate(a_bucket{b!~"c|d",e="(f)"}[$__rate_interval])) or vector(0)',
            {"a_bucket"},
        ),
        ("histogram_quantile(0.95, sum(rate(a[5m])) by (le)) > 0", {"a"}),
        ("a:b_c / on (d) group_left (e) max without (f) (g{})", {"a:b_c", "g"}),
        ("count(up == 0) or vector(0)", {"up"}),
        (
            "a:b:rate5m / on () clamp_min(a:c:rate5m, 1e-9) > 14.4 * 0.05",
            {"a:b:rate5m", "a:c:rate5m"},
        ),
        ("1 - sum(sum_over_time(a[30d])) / 0.001", {"a"}),
        ("(a - a offset $__rate_interval) / (b > 0) >= bool 0.95", {"a", "b"}),
    ],
)
def test_the_metrics_of_an_expression(expression: str, names: set[str]) -> None:
    assert metrics_in(expression) == names


@pytest.mark.parametrize("panel", ALL_PANELS, ids=lambda panel: panel.name)
def test_a_panel_asks_for_metrics_that_exist(panel: Panel) -> None:
    assert panel.expressions or panel.statements
    for expression in panel.expressions:
        names = metrics_in(expression)
        assert names or re.fullmatch(r"vector\([\d.]+\)", expression)
        assert names <= real() | recorded(), expression


@pytest.mark.parametrize("panel", ALL_PANELS, ids=lambda panel: panel.name)
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    document = panel.document
    assert len(document["description"]) > 20
    assert document["fieldConfig"]["defaults"]["unit"]
    sources = {each["uid"]: each["type"] for each in data_sources()}
    for target in document["targets"]:
        source = target["datasource"]
        assert document["datasource"] == source
        assert sources[source["uid"]] == source["type"]
        assert source["uid"] == ("prometheus" if "expr" in target else "postgres")
        assert "rawSql" in target or target["legendFormat"]
    references = [target["refId"] for target in document["targets"]]
    assert len(set(references)) == len(references)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_a_place_of_their_own(path: Any) -> None:
    taken: set[tuple[int, int]] = set()
    documents = dashboard(path)["panels"]
    for each in (document["gridPos"] for document in documents):
        cells = {
            (x, y)
            for x in range(each["x"], each["x"] + each["w"])
            for y in range(each["y"], each["y"] + each["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({document["id"] for document in documents}) == len(documents)


def test_grafana_is_told_where_its_files_and_prometheus_are() -> None:
    folder = MONITORING / "grafana/provisioning"
    source = next(each for each in data_sources() if each["uid"] == "prometheus")
    assert source["jsonData"]["timeInterval"] == scrape_config()["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards/dashboards.yaml").read_text())["providers"]
    grafana = services()["grafana"]["volumes"]
    assert f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro" in grafana


def test_postgres_is_asked_by_the_role_that_is_made_for_it() -> None:
    source = next(each for each in data_sources() if each["uid"] == "postgres")
    assert source["user"] == ROLE
    name = source["secureJsonData"]["password"].removeprefix("$")
    for service in ("grafana", "bucket-init"):
        assert services()[service]["environment"][name].startswith(f"${{{name}:?")


def test_the_role_may_read_what_panels_need_and_nothing_else() -> None:
    asked = " ".join(statement for panel in ALL_PANELS for statement in panel.statements)
    words = set(re.findall(r"\w+", re.sub(r"'[^']*'|\"[^\"]*\"", " ", asked)))
    for table, columns in READABLE.items():
        assert table in words
        assert set(columns) <= words
    assert not {"app_credentials", "usage_content", "chat", "response", "hash"} & words


def test_the_dashboards_are_what_is_written_from_the_targets() -> None:
    written = dashboard_files(load_slo())
    assert list(written) == ["overview.json", "time.json", "tenants.json"]
    assert {path.name for path in DASHBOARDS} == set(written)
    for path in DASHBOARDS:
        assert path.read_text(encoding="utf-8") == written[path.name], "run: make dashboards"


def test_other_targets_are_other_lines() -> None:
    changed = load_slo().model_dump()
    changed["workloads"]["typical"] |= {"latency_ms": {"p95": 1234}, "error_rate": 0.05}
    board = json.loads(dashboard_files(Slo.model_validate(changed))["overview.json"])
    panel = next(each for each in board["panels"] if each["title"].startswith("Duration"))
    lines = {target["legendFormat"]: target["expr"] for target in panel["targets"]}
    assert {name: line for name, line in lines.items() if name.endswith("target")} == {
        "p95 target": "vector(1.234)"
    }
    now = next(each for each in board["panels"] if each["title"] == "Within the targets now")
    assert [target["legendFormat"] for target in now["targets"]] == [
        "p95 < 1234 ms",
        "errors < 5 %",
    ]
    assert now["targets"][1]["expr"] == "stack:errors:ratio5m <= bool 0.05"


def test_grafanas_macros() -> None:
    begins, ends = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    said = plain_sql("$__timeFilter(u.at) and $__timeFrom() '$__interval'", begins, ends, "1m")
    assert said == (
        "u.at BETWEEN '2026-01-01T00:00:00+00:00' AND '2026-01-02T00:00:00+00:00' "
        "and '2026-01-01T00:00:00+00:00' '1m'"
    )
    with pytest.raises(KeyError):
        plain_sql("$__unixEpochFilter(at)", begins, ends, "1m")


def data_sources() -> list[dict[str, Any]]:
    files = (MONITORING / "grafana/provisioning/datasources").glob("*.yaml")
    return [each for path in files for each in yaml.safe_load(path.read_text())["datasources"]]


def scrape_config() -> Any:
    return yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())


def services() -> dict[str, Any]:
    """Of the compose files that are written by hand."""
    found: dict[str, Any] = {}
    for name in ("docker-compose.yaml", "docker-compose.gpu.yaml"):
        for service, document in yaml.safe_load((REPOSITORY / name).read_text())[
            "services"
        ].items():
            found[service] = found.get(service, {}) | document
    return found


def test_every_target_is_a_service() -> None:
    engines = {f"{name}-{number}" for name in ("llama-cpp", "max-serve") for number in range(1, 8)}
    known = set(services()) | engines | {"127.0.0.1"}
    for job in scrape_config()["scrape_configs"]:
        names = [name for each in job.get("dns_sd_configs", []) for name in each["names"]]
        for each in job.get("static_configs", []):
            names += [target.rpartition(":")[0] for target in each["targets"]]
        assert names
        assert set(names) <= known


def test_what_may_be_off_is_looked_up_by_name() -> None:
    """Else it would be shown as down for ever."""
    for job in scrape_config()["scrape_configs"]:
        is_optional = services().get(job["job_name"], {}).get("profiles")
        assert not (is_optional and "static_configs" in job), job["job_name"]


def test_keys_are_read_from_where_the_service_puts_them() -> None:
    command = str(services()["prometheus"]["command"])
    read = {
        job["authorization"]["credentials_file"]
        for job in scrape_config()["scrape_configs"]
        if "authorization" in job
    }
    assert read == set(re.findall(r"> (/tmp/\w+)", command))
