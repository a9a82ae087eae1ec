"""Whether Prometheus reaches what it watches, and Grafana answers with each of its dashboards.

Runs inside a gateway, with what is there; Grafana's password on standard input. Exit code 1 with a
line for each thing that is not well.
"""

import base64
import json
import sys
import urllib.error
import urllib.request
from typing import Any

PROMETHEUS = "http://prometheus:9090"
GRAFANA = "http://grafana:3000"
LONGEST_SECONDS = 10


def get(url: str, headers: dict[str, str]) -> Any:
    """The JSON of an answer. Raises `OSError` where there is none."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the two above
    with urllib.request.urlopen(request, timeout=LONGEST_SECONDS) as response:  # noqa: S310
        return json.load(response)


def of_prometheus() -> list[str]:
    """What is wrong with its targets."""
    targets = get(f"{PROMETHEUS}/api/v1/targets?state=active", {})["data"]["activeTargets"]
    if not targets:
        return ["Prometheus watches nothing"]
    down = [each for each in targets if each["health"] != "up"]
    if not down:
        print(f"  ok    Prometheus reaches all {len(targets)} targets")
    return [
        f"Prometheus: {each['labels'].get('job')} {each['scrapeUrl']} is {each['health']}"
        f" ({each['lastError'] or 'not asked yet'})"
        for each in down
    ]


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
    if not problems:
        print(f"  ok    Grafana answers, with {len(found)} dashboards")
    return problems


def main() -> int:
    """Ask both; print what is wrong."""
    password = sys.stdin.readline().strip()
    problems: list[str] = []
    for name, ask in (("Prometheus", of_prometheus), ("Grafana", lambda: of_grafana(password))):
        try:
            problems += ask()
        except (OSError, ValueError, KeyError) as exc:
            problems.append(f"{name} does not answer as it should: {exc}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


sys.exit(main())
