"""Reads Grafana's dashboards of this repository: panels, and what their expressions ask for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_server.settings import REPOSITORY

MONITORING = REPOSITORY / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana/dashboards").glob("*.json"))

_NOT_METRICS = re.compile(
    r'"(?:\\.|[^"\\])*"'  # texts
    r"|\[[^\]]*\]"  # ranges
    r"|\{[^}]*\}"  # labels and what they must be
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
    r"|\b(?:or|and|unless|bool|offset)\b"
    r"|\b\w+(?=\s*\(|\s+(?:by|without)\b)"  # functions
    r"|(?<![\w:])\d[\w.]*(?:(?<=e)-\d+)?"  # numbers
)
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")


@dataclass(frozen=True)
class Panel:
    """One panel, and which dashboard it is on."""

    dashboard: str
    document: Any

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.document['title']}"

    @property
    def expressions(self) -> list[str]:
        return [target["expr"] for target in self.document["targets"]]


def dashboard(path: Path) -> Any:
    """The document of one file."""
    return json.loads(path.read_text())


def panels() -> Iterator[Panel]:
    """All panels of all dashboards."""
    for path in DASHBOARDS:
        for document in dashboard(path)["panels"]:
            yield Panel(path.stem, document)


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics that an expression asks for. Pure."""
    return set(_NAME.findall(_NOT_METRICS.sub(" ", expression)))
