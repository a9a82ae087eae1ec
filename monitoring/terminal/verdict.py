"""Which of the targets of `configs/slo.yaml` a window of figures meets. Pure."""

from dataclasses import dataclass

from monitoring.slo import Workload
from monitoring.terminal.figures import Lately


@dataclass(frozen=True)
class Verdict:
    """One target: latencies in seconds, the error rate as a share. `is_met` is None without data.

    The rate of requests that is promised is no target here: it is what can be served, and who
    watches cannot know whether nobody asked for more.
    """

    name: str
    target: float
    value: float | None

    @property
    def is_met(self) -> bool | None:
        return None if self.value is None else self.value <= self.target


def verdicts(lately: Lately, promised: Workload) -> list[Verdict]:
    """The percentiles of the latency that are promised, in rising order, then the error rate."""
    found = [
        Verdict(name, milliseconds / 1000, lately.latency.seconds[name])
        for name, milliseconds in sorted(promised.latency_ms.items())
    ]
    return [*found, Verdict("error_rate", promised.error_rate, lately.error_rate)]


def is_missed(found: list[Verdict]) -> bool:
    """Whether one of them is not met; what has no data is not missed."""
    return any(each.is_met is False for each in found)
