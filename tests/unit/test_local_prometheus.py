"""Prometheus of `make local`: what it is told, and when there is none."""

import io
from pathlib import Path

import pytest
import yaml

from api_server.local.banner import Ready, banner
from api_server.local.prometheus import RULES, configuration, prepare_prometheus, server_arguments
from api_server.local.terminal import TerminalSay
from api_server.settings import REPOSITORY, Environment, load_settings

TARGETS = {
    "api-server": "http://[::1]:8000",
    "llama-cpp": "http://127.0.0.1:1",
    "embeddings": "http://127.0.0.1:2",
    "prometheus": "http://127.0.0.1:3",
}


def test_what_it_is_told() -> None:
    document = yaml.safe_load(configuration(TARGETS, "the-key"))
    jobs = {each["job_name"]: each for each in document["scrape_configs"]}
    assert {name: job["static_configs"][0]["targets"] for name, job in jobs.items()} == {
        "api-server": ["[::1]:8000"],
        "llama-cpp": ["127.0.0.1:1"],
        "embeddings": ["127.0.0.1:2"],
        "prometheus": ["127.0.0.1:3"],
    }
    keys = {name for name, job in jobs.items() if "authorization" in job}
    assert keys == {"llama-cpp", "embeddings"}
    assert document["rule_files"] == [f"{RULES}/*.yml"]
    assert list(RULES.glob("*.yml"))


def test_its_jobs_are_called_as_in_compose() -> None:
    path = REPOSITORY / "monitoring/prometheus/prometheus.yml"
    shipped = {each["job_name"] for each in yaml.safe_load(path.read_text())["scrape_configs"]}
    assert set(TARGETS) <= shipped


def test_only_this_machine_reaches_it() -> None:
    words = server_arguments("/p", Path("/c.yml"), Path("/data"), "http://127.0.0.1:9")
    assert "--web.listen-address=127.0.0.1:9" in words
    assert "--storage.tsdb.path=/data" in words
    assert not any("enable-admin-api" in word or "enable-lifecycle" in word for word in words)


@pytest.mark.parametrize(("wanted", "lines"), [("on", 1), ("off", 0)])
def test_where_there_is_none_that_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, lines: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = load_settings({"DATA_DIR": str(tmp_path), "MONITORING": wanted})
    said = io.StringIO()
    assert prepare_prometheus(settings, TARGETS, "the-key", TerminalSay(said)) is None
    assert len(said.getvalue().splitlines()) == lines
    assert list(tmp_path.iterdir()) == []


def test_it_is_wanted_where_nobody_says_otherwise() -> None:
    assert Environment().monitoring


def test_the_banner_names_it() -> None:
    ready = Ready("http://h:1", "tiny", [], [], Path("/logs"), None, "http://127.0.0.1:3")
    assert banner(ready).endswith("logs:     /logs/\n  metrics:  http://127.0.0.1:3 (Prometheus)")
    assert "metrics:" not in banner(Ready("http://h:1", "tiny", [], [], Path("/logs"), None))
