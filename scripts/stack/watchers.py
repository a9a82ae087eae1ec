"""Whether Prometheus reaches what it watches, and Grafana answers with each of its dashboards.

Runs inside a gateway, with what is there; Grafana's password on standard input. Exit code 1 with a
line for each thing that is not well.
"""

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PROMETHEUS = "http://prometheus:9090"
GRAFANA = "http://grafana:3000"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Docker may hand a proxy to each container; these two are not behind it."""

LONGEST_SECONDS = 10
LONGEST_WAIT_SECONDS = 30
"""Prometheus keeps asking a gateway that was replaced until it has heard of that."""


def get(url: str, headers: dict[str, str]) -> Any:
    """The JSON of an answer. Raises `OSError` where there is none."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the two above
    with DIRECTLY.open(request, timeout=LONGEST_SECONDS) as response:
        return json.load(response)


def of_prometheus() -> list[str]:
    """What is wrong with its targets."""
    targets = get(f"{PROMETHEUS}/api/v1/targets?state=active", {})["data"]["activeTargets"]
    if not targets:
        return ["Prometheus watches nothing"]
    down = [each for each in targets if each["health"] != "up" and not is_without_figures(each)]
    return [
        f"Prometheus: {each['labels'].get('job')} {each['scrapeUrl']} is {each['health']}"
        f" ({each['lastError'] or 'not asked yet'})"
        for each in down
    ]


def is_without_figures(target: dict[str, Any]) -> bool:
    """Whether it answers and has no figures of its own, as other object stores than MinIO."""
    error = target["lastError"]
    return target["labels"].get("job") == "minio" and "server returned HTTP status" in error


def of_grafana(password: str) -> list[str]:
    """What is wrong with its dashboards."""
    get(f"{GRAFANA}/api/health", {})
    login = base64.b64encode(f"admin:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"}
    found = get(f"{GRAFANA}/api/search?type=dash-db", headers)
    if not found:
        return ["Grafana has no dashboards"]
    problems = []
    for each in found:
        dashboard = get(f"{GRAFANA}/api/dashboards/uid/{each['uid']}", headers)["dashboard"]
        if not dashboard.get("panels"):
            problems.append(f"Grafana: the dashboard {each['title']} has no panels")
    return problems


def problems_of(password: str) -> list[str]:
    """What is wrong with both."""
    problems: list[str] = []
    for name, ask in (("Prometheus", of_prometheus), ("Grafana", lambda: of_grafana(password))):
        try:
            problems += ask()
        except (OSError, ValueError, KeyError) as exc:
            problems.append(f"{name} does not answer as it should: {exc}")
    return problems


def main() -> int:
    """Ask both, and again for a while where something is wrong; print that, or what is well."""
    password = sys.stdin.readline().strip()
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while (problems := problems_of(password)) and time.monotonic() < deadline:
        time.sleep(3)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print("  ok    Prometheus reaches all its targets, Grafana answers with all its dashboards")
    return 1 if problems else 0


sys.exit(main())
