"""Writes a report into a run's folder, beside its result.json and samples.jsonl."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from load_tests.capacity import Capacity
from load_tests.gate import Verdict, judge
from load_tests.report.page import Page, render
from load_tests.report.tables import by_scenario, by_second
from load_tests.results import Result
from load_tests.samples import Sample
from monitoring.slo import Slo

PAGE = "report.html"
VERDICTS = "verdicts.json"
CAPACITY = "capacity.json"


class CapacityError(ValueError):
    """The file is none of a search for the knee."""


def verdicts_of(slo: Slo, result: Result, samples: Sequence[Sample]) -> list[Verdict]:
    """Of each workload whose scenarios were all run."""
    configuration = result.configuration
    weights = configuration.scenarios
    found = []
    for name, workload in slo.workloads.items():
        if not set(workload.scenarios) <= set(weights):
            continue
        part = sum(weights[scenario] for scenario in workload.scenarios) / sum(weights.values())
        rate = None if configuration.rate is None else configuration.rate * part
        seconds = configuration.seconds or max((each.intended for each in samples), default=0.0)
        found.append(
            judge(
                name,
                workload,
                samples,
                rate=rate,
                seconds=seconds,
                invalid_because=result.invalid_because,
            )
        )
    return found


def write_report(
    folder: Path,
    slo: Slo,
    *,
    result: Result | None = None,
    samples: Sequence[Sample] = (),
    capacity: Capacity | None = None,
) -> list[Verdict]:
    """The page, and the files of what there is; the verdicts that it tells."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    if result is not None:
        verdicts = verdicts_of(slo, result, samples)
        _write(folder / VERDICTS, verdicts)
        (folder / "scenarios.csv").write_text(by_scenario(result), encoding="utf-8")
        (folder / "seconds.csv").write_text(by_second(result), encoding="utf-8")
    if capacity is not None:
        _write(folder / CAPACITY, capacity)
    names = [verdict.workload for verdict in verdicts] or [capacity.workload if capacity else ""]
    workload = slo.workloads.get(names[0]) or next(iter(slo.workloads.values()))
    page = Page(
        result=result, samples=samples, verdicts=verdicts, capacity=capacity, workload=workload
    )
    (folder / PAGE).write_text(render(page), encoding="utf-8")
    return verdicts


def read_capacity(path: Path) -> Capacity:
    """A capacity.json, or the folder it is in. Raises `CapacityError`."""
    file = path / CAPACITY if path.is_dir() else path
    try:
        return msgspec.json.decode(file.read_bytes(), type=Capacity)
    except (OSError, msgspec.DecodeError) as exc:
        raise CapacityError(f"{file}: {exc}") from exc


def _write(path: Path, content: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
