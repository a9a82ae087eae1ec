"""Writes files that are made from `configs/slo.yaml`: rules and dashboards."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from monitoring.slo import Slo, SloError, load_slo


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by name; what is left over from before, with such an ending, goes."""
    folder.mkdir(parents=True, exist_ok=True)
    endings = {Path(name).suffix for name in files}
    for old in folder.iterdir():
        if old.suffix in endings and old.name not in files:
            old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def generate(folder: Path, files_of: Callable[[Slo], Mapping[str, str]]) -> None:
    """The work of a command; for what is wrong in the file it ends with a sentence."""
    try:
        write(folder, files_of(load_slo()))
    except SloError as exc:
        sys.exit(f"error: {exc}")
