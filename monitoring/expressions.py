"""The words that rules are made of: what is counted, in whose sum, over which time. Pure."""

from dataclasses import dataclass

from api_server.observability import metrics
from monitoring.slo import Slo, SloError, Workload

PROMISED = "typical"
"""A running stack cannot tell one workload from another; all its chats are held to this one."""

DURATION = metrics.DURATION.name
FIRST_TOKEN = metrics.FIRST_TOKEN.name
PER_TOKEN = metrics.PER_TOKEN.name
TOKENS = metrics.TOKENS.name
ERRORS = metrics.ERRORS.name
QUEUE_WAIT = metrics.QUEUE_WAIT.name

_INTERACTIVE = "|".join(metrics.INTERACTIVE)
INTERACTIVE = f'operation=~"{_INTERACTIVE}"'
IN_BACKGROUND = f'operation!~"{_INTERACTIVE}"'
"""Who asks waits for an answer, or it is for a job, a run or a file."""

ANSWERS = f'gen_ai_operation_name=~"{_INTERACTIVE}"'
BACKGROUND = f'gen_ai_operation_name!~"{_INTERACTIVE}"'
STREAMED_RUNS = 'gen_ai_operation_name="run"'

OURS = f'kind=~"engine|gateway|shed",{INTERACTIVE}'
"""Of errors, those that break the promise: not an app beyond its limits, not a wrong request, not a
client that left."""

CHATS = f'gen_ai_operation_name=~"{"|".join(metrics.CHATS)}"'
OF_CHATS = f'operation=~"{"|".join(metrics.CHATS)}"'
WHOLE_CHATS = f'{CHATS},error_type=""'
"""What latency is measured of. A refusal is quick and an error may be: neither makes it better."""

SHORTEST = "5m"


@dataclass(frozen=True)
class Level:
    """In whose name something is added up; the first word of a recorded series."""

    name: str
    labels: tuple[str, ...]

    def sum(self, series: str, window: str, *keep: str) -> str:
        """Events per second of a series of ours, by the level's labels and those to `keep`."""
        rate = f"rate({series}[{window}])"
        if "model" in self.labels and series.startswith("gen_ai_"):
            labelled = '"model", "$1", "gen_ai_request_model", "(.*)"'
            rate = f"label_replace(\n  {rate},\n  {labelled}\n)"
        labels = ", ".join((*keep, *self.labels))
        return f"sum by ({labels}) ({rate})" if labels else f"sum({rate})"

    def quantile(self, percentile: str, histogram: str, matchers: str = "") -> str:
        """Of the last minutes."""
        selector = f"{histogram}_bucket{{{matchers}}}" if matchers else f"{histogram}_bucket"
        buckets = self.sum(selector, SHORTEST, "le")
        return f"histogram_quantile({share(percentile):g},\n{buckets})"


STACK = Level("stack", ())
MODEL = Level("model", ("model",))


def promise(slo: Slo) -> Workload:
    """What a running stack is held to. Raises `SloError` where the file has no such workload."""
    try:
        return slo.workloads[PROMISED]
    except KeyError:
        raise SloError(
            f"workloads: the rules are made for '{PROMISED}', which is missing"
        ) from None


def share(percentile: str) -> float:
    """p95 is 0.95."""
    return int(percentile.removeprefix("p")) / 100


def budget(percentile: str) -> float:
    """The share of requests that may be slower than a percentile's target: p95 is 0.05."""
    return round(1 - share(percentile), 4)


def edge(milliseconds: int) -> str:
    """What matches the bucket that ends at a target: Prometheus 3 writes 1.0 for our 1.

    Raises `SloError` where none does: a rule would be silent for ever.
    """
    if milliseconds / 1000 not in metrics.DURATION.buckets:
        known = ", ".join(f"{1000 * each:g}" for each in metrics.DURATION.buckets)
        raise SloError(
            f"latency_ms: {milliseconds} is not where a bucket of {DURATION} ends: {known}"
        )
    text = f"{milliseconds / 1000:g}"
    escaped = text.replace(".", "\\\\.")
    return f'le="{text}"' if "." in text else f'le=~"{escaped}(\\\\.0)?"'
