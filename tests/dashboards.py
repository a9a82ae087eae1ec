"""Reads Grafana's dashboards of this repository: panels, and what their queries ask for."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
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
    r"|\boffset\s+(?:\d+[smhd]|\$__rate_interval)"
    r"|\b(?:or|and|unless|bool)\b"
    r"|\b\w+(?=\s*\(|\s+(?:by|without)\b)"  # functions
    r"|(?<![\w:])\d[\w.]*(?:(?<=e)-\d+)?"  # numbers
)
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_MACRO = re.compile(r"\$__(\w+)\(([^)]*)\)")


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
        """What it asks of Prometheus."""
        return [each["expr"] for each in self.document["targets"] if "expr" in each]

    @property
    def statements(self) -> list[str]:
        """What it asks of PostgreSQL, with Grafana's macros."""
        return [each["rawSql"] for each in self.document["targets"] if "rawSql" in each]

    @property
    def may_be_empty(self) -> bool:
        """Whether it says what there is nothing of, where there is nothing."""
        return "noValue" in self.document["fieldConfig"]["defaults"]


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


def plain_sql(statement: str, begins: datetime, ends: datetime, interval: str) -> str:
    """A statement as Grafana sends it: its macros as in pkg/tsdb/grafana-postgresql-datasource/
    macros.go. Raises `KeyError` for one that is not among these. Pure.
    """
    first, last = f"'{begins.isoformat()}'", f"'{ends.isoformat()}'"

    def written(match: re.Match[str]) -> str:
        argument = match[2].strip()
        return {
            "timeFilter": f"{argument} BETWEEN {first} AND {last}",
            "timeFrom": first,
            "timeTo": last,
        }[match[1]]

    return _MACRO.sub(written, statement.replace("$__interval", interval))
