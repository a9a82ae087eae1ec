"""From two moments of a gateway's metrics to the figures that an operator looks at. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from api_server.observability.metrics import CHATS, INTERACTIVE
from monitoring.terminal.exposition import Labels, Series
from monitoring.terminal.quantiles import quantile
from monitoring.terminal.rates import Growth

WORKERS = "llm_gateway_workers"
DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105
QUEUE_WAIT = "llm_gateway_queue_wait_seconds"
TOKENS = "gen_ai_client_token_usage_total"
ERRORS = "llm_gateway_errors_total"
SHED = "llm_gateway_shed_total"
LIMITED = "llm_gateway_limited_total"
CANCELLED = "llm_gateway_cancelled_total"
LOST = "llm_gateway_ledger_lost_total"
IN_FLIGHT = "llm_gateway_in_flight"
OLDEST_QUEUED = "llm_gateway_oldest_queued_seconds"
SLOTS = "llm_gateway_slots"
SLOTS_BUSY = "llm_gateway_slots_busy"
JOBS = "llm_gateway_jobs"
OLDEST_JOB = "llm_gateway_oldest_job_seconds"
SPOOL = "llm_gateway_spool_rows"
DEPENDENCY = "llm_gateway_dependency_state"
REPLICA = "llm_gateway_replica_sound"

PERCENTILES = ("p50", "p90", "p95", "p99")
BREACHES = frozenset({"engine", "gateway", "shed"})
"""Kinds of errors that break the promise, as the rules for Prometheus have it: not an app beyond
its limits, not a wrong request, not a client that left."""

_MODEL_LABELS = ("model", "gen_ai_request_model")
_OPERATIONS = ("operation", "gen_ai_operation_name")

Where = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Quantiles:
    """Of `count` observations, in seconds; None where there is none."""

    count: int = 0
    seconds: Mapping[str, float | None] = field(default_factory=lambda: dict.fromkeys(PERCENTILES))


@dataclass(frozen=True)
class Now:
    """What a gateway holds at this moment. None where it does not say.

    `replicas_unwell` are "model at address"; lists are sorted.
    """

    workers: int
    queued: int
    in_flight: int
    oldest_queued_seconds: float | None
    slots_busy: int | None
    slots: int | None
    jobs_waiting: int | None
    jobs_running: int | None
    oldest_job_seconds: float | None
    spool_rows: int | None
    dependencies_down: tuple[str, ...]
    replicas_unwell: tuple[str, ...]


@dataclass(frozen=True)
class Lately:
    """What happened within a window of so many seconds. Counts by what their names say.

    `requests` are those to models that ended, however they ended; `answered` of them went well;
    `breaches` are the errors that break the promise. `latency` and `first_token` are of chats and
    completions, the former of those that went well. `background` are the requests of jobs, runs
    and files, which are in none of these, nor in `queue_wait` and errors. `restarts` is how often
    counters fell, since a gateway started anew.
    """

    seconds: float
    requests: int
    background: int
    answered: int
    latency: Quantiles
    first_token: Quantiles
    queue_wait: Quantiles
    input_tokens: int
    output_tokens: int
    errors_by_kind: Mapping[str, int]
    shed_by_reason: Mapping[str, int]
    cancelled_by_phase: Mapping[str, int]
    limited_by_limit: Mapping[str, int]
    ledger_rows_lost: int
    restarts: int

    @property
    def breaches(self) -> int:
        return sum(n for kind, n in self.errors_by_kind.items() if kind in BREACHES)

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def output_tokens_per_second(self) -> float:
        return self.output_tokens / self.seconds

    @property
    def input_tokens_per_second(self) -> float:
        return self.input_tokens / self.seconds

    @property
    def error_rate(self) -> float | None:
        """The share that broke the promise, of those that could have kept it; None without any."""
        counted = self.answered + self.breaches
        return self.breaches / counted if counted else None


def is_gateway(series: Series) -> bool:
    """Whether whoever answered is a gateway of ours."""
    return WORKERS in series


def requests_ever(series: Series, model: str | None) -> int:
    """Requests to models since the gateway began to count, without those in the background."""
    return _count(_total(series, f"{DURATION}_count", _waited_for(model)))


def models_in(series: Series) -> frozenset[str]:
    """Every model that the metrics name."""
    return frozenset(
        value
        for values in series.values()
        for labels in values
        for name, value in labels
        if name in _MODEL_LABELS
    )


def now_of(series: Series, model: str | None) -> Now:
    """What a model (None: all of them) holds; jobs, rows and dependencies are everybody's."""
    of = _of(model)
    workers = _total(series, WORKERS, _any)
    queued = _total(series, IN_FLIGHT, lambda told: of(told) and told.get("phase") == "queued")
    # A worker that is gone says nothing: each of those that live should find a replica sound.
    unwell = [
        f"{told.get('model')} at {told.get('replica')}"
        for told, value in _samples(series, REPLICA, of)
        if value < workers
    ]
    down = {
        told.get("dependency", "?")
        for told, value in _samples(series, DEPENDENCY, _any)
        if told.get("state") == "down" and value > 0
    }
    return Now(
        workers=_count(workers),
        queued=_count(queued),
        in_flight=_count(_total(series, IN_FLIGHT, of) - queued),
        oldest_queued_seconds=_largest(series, OLDEST_QUEUED, of),
        slots_busy=_if_told(series, SLOTS_BUSY, of),
        slots=_if_told(series, SLOTS, of),
        jobs_waiting=_if_told(series, JOBS, lambda told: told.get("state") == "queued"),
        jobs_running=_if_told(series, JOBS, lambda told: told.get("state") == "processing"),
        oldest_job_seconds=_largest(series, OLDEST_JOB, _any),
        spool_rows=_if_told(series, SPOOL, _any),
        dependencies_down=tuple(sorted(down)),
        replicas_unwell=tuple(sorted(unwell)),
    )


def lately_of(grown: Growth, model: str | None) -> Lately:
    """What a model (None: all of them) did; limits of apps and the ledger are everybody's."""
    series, of, asked = grown.series, _of(model), _waited_for(model)

    def is_text(told: Mapping[str, str]) -> bool:
        return of(told) and told.get("gen_ai_operation_name") in CHATS

    def tokens(kind: str) -> int:
        where: Where = lambda told: of(told) and told.get("gen_ai_token_type") == kind  # noqa: E731
        return _count(_total(series, TOKENS, where))

    return Lately(
        seconds=max(grown.ended - grown.began, 1e-9),
        requests=_count(_total(series, f"{DURATION}_count", asked)),
        background=_count(
            _total(series, f"{DURATION}_count", lambda t: of(t) and not asked(t)),
        ),
        answered=_count(
            _total(series, f"{DURATION}_count", lambda t: asked(t) and not t.get("error_type"))
        ),
        latency=_quantiles(
            series, DURATION, lambda told: is_text(told) and not told.get("error_type")
        ),
        first_token=_quantiles(series, FIRST_TOKEN, is_text),
        queue_wait=_quantiles(series, QUEUE_WAIT, asked),
        input_tokens=tokens("input"),
        output_tokens=tokens("output"),
        errors_by_kind=_by(series, ERRORS, "kind", asked),
        shed_by_reason=_by(series, SHED, "reason", of),
        cancelled_by_phase=_by(series, CANCELLED, "phase", of),
        limited_by_limit=_by(series, LIMITED, "limit", _any),
        ledger_rows_lost=_count(_total(series, LOST, _any)),
        restarts=grown.restarts,
    )


def _any(_: Mapping[str, str]) -> bool:
    return True


def _of(model: str | None) -> Where:
    if model is None:
        return _any
    return lambda told: any(told.get(label) == model for label in _MODEL_LABELS)


def _waited_for(model: str | None) -> Where:
    """Not what jobs, runs and files ask."""
    of = _of(model)
    return lambda told: of(told) and any(told.get(name) in INTERACTIVE for name in _OPERATIONS)


NO_FIGURE = 2.0**63
"""Nothing here grows so large: whoever tells it, or what is no number, tells nothing."""


def _samples(series: Series, name: str, where: Where) -> Iterator[tuple[dict[str, str], float]]:
    values: Mapping[Labels, float] = series.get(name, {})
    for labels, value in values.items():
        told = dict(labels)
        if abs(value) < NO_FIGURE and where(told):
            yield told, value


def _total(series: Series, name: str, where: Where) -> float:
    return sum(value for _, value in _samples(series, name, where))


def _if_told(series: Series, name: str, where: Where) -> int | None:
    values = [value for _, value in _samples(series, name, where)]
    return _count(sum(values)) if values else None


def _largest(series: Series, name: str, where: Where) -> float | None:
    return max((value for _, value in _samples(series, name, where)), default=None)


def _by(series: Series, name: str, label: str, where: Where) -> dict[str, int]:
    """Largest first; without those that did not happen."""
    found: dict[str, float] = {}
    for told, value in _samples(series, name, where):
        found[told.get(label, "")] = found.get(told.get(label, ""), 0.0) + value
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return {kind: _count(value) for kind, value in ordered if value >= 0.5}


def _quantiles(series: Series, name: str, where: Where) -> Quantiles:
    buckets: dict[float, float] = {}
    for told, value in _samples(series, f"{name}_bucket", where):
        try:
            bound = float(told["le"])
        except (KeyError, ValueError):
            continue
        buckets[bound] = buckets.get(bound, 0.0) + value
    shares = {each: quantile(int(each[1:]) / 100, buckets) for each in PERCENTILES}
    return Quantiles(_count(buckets.get(math.inf, 0.0)), shares)


def _count(value: float) -> int:
    return round(value)
