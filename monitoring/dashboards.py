"""Writes Grafana's dashboards: `make dashboards`. The files are committed.

Grafana reads them where they are (monitoring/grafana is mounted). The targets in them come from
`configs/slo.yaml`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from monitoring.boards import overview, tenants, time_spent
from monitoring.generating import generate
from monitoring.panels import Board, document
from monitoring.slo import Slo

FOLDER = Path(__file__).resolve().parent / "grafana" / "dashboards"


def boards(slo: Slo) -> Sequence[Board]:
    """All of them, the one to begin with first. Pure."""
    return [overview.board(slo), time_spent.board(), tenants.board()]


def dashboard_files(slo: Slo) -> Mapping[str, str]:
    """The files by name. Pure."""
    every = boards(slo)
    return {
        f"{board.uid.removeprefix('stack-')}.json": json.dumps(
            document(board, [each for each in every if each is not board]),
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
        for board in every
    }


if __name__ == "__main__":
    generate(FOLDER, dashboard_files)
