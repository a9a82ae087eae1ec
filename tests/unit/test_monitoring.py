"""What Prometheus asks and Grafana shows is there to be asked and shown."""

import re
from typing import Any

import pytest
import yaml

from api_server.settings import REPOSITORY
from tests.dashboards import DASHBOARDS, MONITORING, Panel, dashboard, metrics_in, panels
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
    ],
)
def test_the_metrics_of_an_expression(expression: str, names: set[str]) -> None:
    assert metrics_in(expression) == names


@pytest.mark.parametrize("panel", ALL_PANELS, ids=lambda panel: panel.name)
def test_a_panel_asks_for_metrics_that_exist(panel: Panel) -> None:
    for expression in panel.expressions:
        names = metrics_in(expression)
        assert names
        assert names <= real() | recorded(), expression


@pytest.mark.parametrize("panel", ALL_PANELS, ids=lambda panel: panel.name)
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    document = panel.document
    assert len(document["description"]) > 20
    assert document["fieldConfig"]["defaults"]["unit"]
    assert document["datasource"] == {"type": "prometheus", "uid": "prometheus"}
    assert all(target["legendFormat"] for target in document["targets"])
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
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["uid"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape_config()["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((folder / "dashboards/dashboards.yaml").read_text())["providers"]
    grafana = services()["grafana"]["volumes"]
    assert f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro" in grafana


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
    known = set(services()) | {f"llama-cpp-{number}" for number in range(1, 8)} | {"127.0.0.1"}
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
