"""What a dashboard is made of, and how Grafana writes it down. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
POSTGRES = {"type": "grafana-postgresql-datasource", "uid": "postgres"}
"""As in grafana/provisioning/datasources, where the uids never change."""

COLUMNS = 24
WINDOW = "$__rate_interval"
COLOURS = {"p50": "green", "p95": "orange", "p99": "red", "errors": "purple"}
"""Of a percentile and of its target: the same, the target dashed."""

Kind = Literal["timeseries", "stat", "table", "state-timeline"]
Draw = Literal["lines", "stack", "bars"]


@dataclass(frozen=True)
class Prom:
    """An expression of PromQL and what its series are called."""

    legend: str
    expression: str

    def target(self, reference: str, kind: Kind) -> dict[str, Any]:
        is_of_now = kind in ("stat", "table")  # a whole range would be asked for and thrown away
        return {
            "refId": reference,
            "datasource": PROMETHEUS,
            "expr": self.expression,
            "legendFormat": self.legend,
            "instant": is_of_now,
            "range": not is_of_now,
            "format": "table" if kind == "table" else "time_series",
        }


def quantile(percent: int, buckets: str, *by: str) -> str:
    """What so many of 100 do not exceed, of the last minutes; nothing where nothing happened."""
    kept = ", ".join((*by, "le"))
    return (
        f"histogram_quantile({percent / 100:g}, sum by ({kept}) (rate({buckets}[{WINDOW}]))) >= 0"
    )


def percentiles(buckets: str) -> list[Prom]:
    """The three that are promised."""
    return [Prom(f"p{percent}", quantile(percent, buckets)) for percent in (50, 95, 99)]


@dataclass(frozen=True)
class Sql:
    """A statement. With columns `time`, `metric` and a number it gives series, else a table."""

    text: str

    @property
    def gives_series(self) -> bool:
        return 'as "time"' in self.text

    def target(self, reference: str, kind: Kind) -> dict[str, Any]:  # noqa: ARG002
        return {
            "refId": reference,
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": "time_series" if self.gives_series else "table",
            "rawQuery": True,
            "rawSql": self.text,
        }


@dataclass(frozen=True)
class Panel:
    """One picture. `quiet` is what stands there while there is nothing to show; a panel without
    such a text has something to show on a stack that has just begun.

    unit: Grafana's name of it; columns: units of single columns of a table; words: what values
    mean, with a colour.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Prom | Sql]
    kind: Kind = "timeseries"
    width: int = 12
    draw: Draw = "lines"
    quiet: str | None = None
    most: float | None = None
    decimals: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Panels side by side, of one height."""

    height: int
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """One dashboard. Its uid never changes, since links name it."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    since: str = "now-1h"


def document(board: Board, others: Sequence[Board] = ()) -> dict[str, Any]:
    """What Grafana reads. `others` are linked to."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in board.rows:
        left = 0
        for panel in row.panels:
            place = {"x": left, "y": top, "w": panel.width, "h": row.height}
            panels.append(_panel(panel, len(panels) + 1, place))
            left += panel.width
        if left > COLUMNS:
            raise ValueError(f"{board.title}: a row is {left} columns wide")
        top += row.height
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["llm-serving-stack"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": board.since, "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "link", "title": each.title, "url": f"/d/{each.uid}", "keepTime": True}
            for each in others
        ],
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    sources = [POSTGRES if isinstance(each, Sql) else PROMETHEUS for each in panel.queries]
    found: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "gridPos": dict(place),
        "datasource": sources[0],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        "targets": [
            query.target("ABCDEFGHIJ"[index], panel.kind)
            for index, query in enumerate(panel.queries)
        ],
    }
    if sources[0] == POSTGRES and panel.kind == "timeseries":
        found["interval"] = "1m"  # no finer than that, or each look would ask for much
    if panel.kind == "table" and sources[0] == PROMETHEUS:
        hidden = dict.fromkeys(("Time", "Value", "__name__", "alertstate"), True)
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return found


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "color": {"mode": "palette-classic"}}
    if panel.quiet is not None:
        defaults["noValue"] = panel.quiet
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.words:
        defaults["color"] = {"mode": "thresholds"}
        defaults["mappings"] = [
            {
                "type": "value",
                "options": {
                    str(value): {"text": text, "color": colour, "index": index}
                    for index, (value, (text, colour)) in enumerate(panel.words.items())
                },
            }
        ]
    elif panel.kind == "stat":
        defaults["color"] = {"mode": "fixed", "fixedColor": "text"}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = _CUSTOM[panel.draw]
    if panel.kind == "state-timeline":
        defaults["custom"] = {"fillOpacity": 70, "lineWidth": 0}
    return defaults


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    found = [
        _override("byName", name, {"id": "unit", "value": unit})
        for name, unit in panel.columns.items()
    ]
    if panel.kind != "timeseries" or panel.draw != "lines":
        return found
    legends = [query.legend for query in panel.queries if isinstance(query, Prom)]
    for name, colour in COLOURS.items():
        if any(legend.startswith(name) for legend in legends):
            fixed = {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}
            found.append(_override("byRegexp", f"/^{name}/", fixed))
    if any(legend.endswith("target") for legend in legends):
        dashes = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}
        empty = {"id": "custom.fillOpacity", "value": 0}
        found.append(_override("byRegexp", "/target$/", dashes, empty))
    return found


def _override(by: str, name: str, *properties: dict[str, Any]) -> dict[str, Any]:
    return {"matcher": {"id": by, "options": name}, "properties": list(properties)}


_CUSTOM: Mapping[Draw, dict[str, Any]] = {
    "lines": {"fillOpacity": 8, "showPoints": "never", "spanNulls": False},
    "stack": {
        "fillOpacity": 60,
        "showPoints": "never",
        "lineWidth": 0,
        "stacking": {"mode": "normal", "group": "A"},
    },
    "bars": {
        "drawStyle": "bars",
        "fillOpacity": 80,
        "lineWidth": 0,
        "stacking": {"mode": "normal", "group": "A"},
    },
}
_OPTIONS: Mapping[Kind, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "graphMode": "none",
        "textMode": "value_and_name",
        "colorMode": "value",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "state-timeline": {
        "showValue": "never",
        "mergeValues": True,
        "legend": {"displayMode": "list", "placement": "bottom"},
    },
}
