"""From the load tester's results to the rows of the report, and whether the promise held. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitoring.slo import Slo

PERCENTILES = ("p50", "p95", "p99")
STAGES = ("queue", "engine", "decode", "gateway")
"""One after the other: `engine` ends with the first event, where `decode` begins."""


@dataclass(frozen=True)
class Row:
    """One load. Times in milliseconds; None where no request went well.

    `stages` are means. `engine` is until its first event, `decode` from there to its last;
    `gateway` is the gateway's own time until an answer begins; `rest` is what no stage explains:
    the way of the events through the gateway, the sockets, the load tester itself. 0 where stages
    overlap, which the last token of the first event makes them do by a little.
    """

    name: str
    rate: float | None
    users: int | None
    scenarios: tuple[str, ...]
    seconds: float
    count: int
    failed: int
    refused: int
    latency: dict[str, float] | None
    first_token_p50: float | None
    tokens_per_second: float
    requests_per_second: float
    stages: dict[str, float]
    busy_per_decode: float
    invalid_because: tuple[str, ...]
    most_memory_mib: int | None = None

    @property
    def gateway_share(self) -> float | None:
        """Of the mean latency, 0 to 1: what the gateway adds before an answer begins."""
        total = self.stages.get("total")
        return self.stages.get("gateway", 0.0) / total if total else None

    @property
    def most_gateway_share(self) -> float | None:
        """The same if all that no stage explains were the gateway's too: an upper bound."""
        total = self.stages.get("total")
        if not total:
            return None
        return (self.stages.get("gateway", 0.0) + self.stages.get("rest", 0.0)) / total


def row_of(name: str, result: Mapping[str, Any], found: Mapping[str, Any]) -> Row:
    """result: the load tester's result.json; found: what was noted beside it."""
    total, configuration = result["total"], result["configuration"]
    latency = total["latency"]
    first = total["first_token"]
    gpus = found.get("gpus") or []
    return Row(
        name=name,
        rate=configuration["rate"],
        users=configuration["concurrency"],
        scenarios=tuple(configuration["scenarios"]),
        seconds=result["seconds"],
        count=total["count"],
        failed=sum(total["errors"].values()),
        refused=total["refused"],
        latency=latency and {each: 1000 * latency["percentiles"][each] for each in PERCENTILES},
        first_token_p50=first and 1000 * first["percentiles"]["p50"],
        tokens_per_second=total["tokens_per_second"],
        requests_per_second=total["requests_per_second"],
        stages=stages_of(total),
        busy_per_decode=found["batching"]["busy_per_decode"],
        invalid_because=tuple(result["invalid_because"]),
        most_memory_mib=max((gpu["used_mib"] for gpu in gpus), default=None),
    )


def stages_of(total: Mapping[str, Any]) -> dict[str, float]:
    """Mean milliseconds of each stage, their rest, and the total; empty without good answers."""
    if not total["latency"]:
        return {}
    found = {"total": 1000 * total["latency"]["mean"]}
    for stage in STAGES:
        if stage in total["stages"]:
            found[stage] = 1000 * total["stages"][stage]["mean"]
    found["rest"] = max(0.0, found["total"] - sum(found.get(stage, 0.0) for stage in STAGES))
    return found


@dataclass(frozen=True)
class Verdict:
    """Whether a load kept a workload's promise; `broken` says what did not hold."""

    workload: str
    load: str
    broken: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.broken


def verdicts_of(rows: list[Row], slo: Slo) -> list[Verdict]:
    """For each open load at the promised rate or above, of one of a workload's scenarios.

    A refused request counts as an error here: no app has limits, so only overload refuses.
    """
    found = []
    for name, workload in slo.workloads.items():
        for row in rows:
            is_meant = row.scenarios and set(row.scenarios) <= set(workload.scenarios)
            if not is_meant or row.rate is None or row.rate < workload.requests_per_second:
                continue
            broken = list(row.invalid_because)
            for percentile, target in sorted(workload.latency_ms.items()):
                measured = row.latency.get(percentile) if row.latency else None
                if measured is None:
                    broken.append(f"{percentile} is not known")
                elif measured > target:
                    broken.append(f"{percentile} {measured:.0f} ms, promised {target}")
            share = (row.failed + row.refused) / row.count if row.count else 1.0
            if share > workload.error_rate:
                broken.append(f"{share:.2%} errors, promised {workload.error_rate:.2%}")
            found.append(Verdict(name, row.name, tuple(broken)))
    return found
