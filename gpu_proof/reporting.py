"""Writes the report of what was run: Markdown, JSON, and the load tester's results as they are."""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from api_server.errors import SetupError
from gpu_proof.figures import row_of, verdicts_of
from gpu_proof.loads import FULL, KNEE
from gpu_proof.markdown import report
from gpu_proof.places import Places
from gpu_proof.records import Records
from monitoring.slo import load_slo

SCHEMA_VERSION = 1
LOG_END_BYTES = 2 * 2**20
"""Of a log's beginning and of its end, in the package of results."""


def write_report(places: Places, records: Records, folder: Path) -> list[str]:
    """report.md, report.json and results.tar.xz; sentences for people. Raises SetupError."""
    planned: Mapping[str, str] = records.found("plan").get("loads", {})
    results = results_of(places, planned)
    # What was measured of another model, or with other slots, is no part of this report.
    done = [name for name in results if records.is_done(f"run {name}", planned[name])]
    if not done or not records.found("stack"):
        raise SetupError("nothing was run yet: the step `run` comes first")
    rows = [row_of(name, results[name], records.found(f"run {name}")) for name in done]
    verdicts = verdicts_of(rows, load_slo())
    steps = {name: records.found(name) for name in records.steps}
    hardware = results[done[0]]["hardware"]
    without = [name for name in planned if name not in done and name != KNEE]
    content = {
        "schema_version": SCHEMA_VERSION,
        "steps": records.steps,
        "hardware": hardware,
        "versions": results[done[0]]["versions"],
        "loads": [asdict(row) for row in rows],
        "verdicts": [asdict(each) | {"holds": each.holds} for each in verdicts],
        "missing": without,
    }
    folder.mkdir(parents=True, exist_ok=True)
    said = report(steps, rows, verdicts, hardware, without)
    (folder / "report.md").write_text(said, encoding="utf-8")
    text = json.dumps(content, indent=1) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    with tarfile.open(folder / "results.tar.xz", "w:xz") as packed:
        runs = places.work / "runs"
        if runs.exists():
            packed.add(runs, runs.name)
        for path in sorted(places.logs.glob("*")):
            _pack_log(packed, path, f"{places.logs.name}/{path.name}")
    missing = [f"without a result: {', '.join(without)}"] if without else []
    full = records.found(f"run {FULL}").get("batching")
    batching = [] if full is None else [_batching_said(full)]
    return [f"report: {folder / 'report.md'}", *batching, *missing]


def _pack_log(packed: tarfile.TarFile, path: Path, name: str) -> None:
    """Its beginning and its end: an engine's grows to a gigabyte, which takes minutes to pack."""
    with path.open("rb") as log:
        content = log.read(LOG_END_BYTES)
        rest = path.stat().st_size - len(content)
        if rest > LOG_END_BYTES:
            log.seek(-LOG_END_BYTES, os.SEEK_END)
            content += f"\n\n[{rest - LOG_END_BYTES} bytes are left out]\n\n".encode()
        content += log.read(LOG_END_BYTES)
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    packed.addfile(entry, io.BytesIO(content))


def _batching_said(full: Mapping[str, Any]) -> str:
    word = "full" if full["is_full"] else "NOT FULL"
    return f"batches are {word}: {full['busy_per_decode']} of {full['slots']} slots busy per decode"


def results_of(places: Places, loads: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The result.json of each load that has one, by name."""
    found = {}
    for name in loads:
        path = places.work / "runs" / name / "result.json"
        if path.exists():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found
