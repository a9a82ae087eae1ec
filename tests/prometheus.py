"""A real Prometheus for the tests, where the machine has one, with this repository's jobs."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from api_server.local.process import free_port, tether_command
from tests.dashboards import MONITORING
from tests.stores import START_SECONDS

PROGRAM = shutil.which("prometheus")
SCRAPE_SECONDS = 1


def configuration(targets: Mapping[str, str], folder: Path) -> Any:
    """The shipped one, of these jobs only and with their targets (host:port) here."""
    document = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
    document["global"] = {
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "scrape_timeout": f"{SCRAPE_SECONDS}s",
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
    }
    document["rule_files"] = [str(path) for path in _rules(document["rule_files"], folder)]
    kept = [job for job in document["scrape_configs"] if job["job_name"] in targets]
    assert len(kept) == len(targets)
    for job in kept:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        if "authorization" in job:
            (folder / "key").write_text("a-key-of-the-test")
            job["authorization"]["credentials_file"] = str(folder / "key")
    return document | {"scrape_configs": kept}


def _rules(patterns: list[str], folder: Path) -> Iterator[Path]:
    """The shipped ones, each evaluated every second."""
    for path in (found for each in patterns for found in (MONITORING / "prometheus").glob(each)):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group.pop("interval", None)
        (folder / path.name).write_text(yaml.safe_dump(document))
        yield folder / path.name


class Prometheus:
    """What a panel asks."""

    def __init__(self, url: str) -> None:
        self.url = url

    def values(self, expression: str) -> list[float]:
        """Of each series that an expression gives now. Raises where it is wrong."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return [float(each["value"][1]) for each in answer.json()["data"]["result"]]

    def rules(self) -> list[dict[str, Any]]:
        """All of them, each with its `health` ("ok" once it was evaluated) and `lastError`."""
        answer = httpx.get(f"{self.url}/api/v1/rules", timeout=10).raise_for_status().json()
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """It asks the targets each second."""
    assert PROGRAM is not None
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration(targets, folder)))
    url = f"http://127.0.0.1:{free_port()}"
    argv = [
        *(PROGRAM, f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}"),
        *(f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"),
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as out, subprocess.Popen(tether_command(argv), stderr=out) as process:
        try:
            _wait(url, log)
            yield Prometheus(url)
        finally:
            process.kill()


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready", timeout=2).status_code == 200:
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
