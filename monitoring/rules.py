"""Writes Prometheus' rules from `configs/slo.yaml`: `make rules`. The files are committed.

Prometheus reads them where they are (monitoring/prometheus is mounted), so that no container needs
this program.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from monitoring.alerts import alert_groups
from monitoring.generating import generate
from monitoring.recording import recording_groups
from monitoring.slo import Slo

FOLDER = Path(__file__).resolve().parent / "prometheus" / "rules"

_HEAD = "# Written by `make rules` from configs/slo.yaml: change that, not this.\n"
_WIDTH = 140


class _Dumper(yaml.SafeDumper):
    """Lists are indented and texts of several lines are blocks: for people and for yamllint."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def rule_files(slo: Slo) -> Mapping[str, str]:
    """The files by name. Pure."""
    files = {"recording.yml": recording_groups(slo), "alerts.yml": alert_groups(slo)}
    return {
        name: _HEAD + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=_WIDTH)
        for name, groups in files.items()
    }


if __name__ == "__main__":
    generate(FOLDER, rule_files)
