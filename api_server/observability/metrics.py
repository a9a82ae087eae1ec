"""Every metric of the gateway, named once, and what puts numbers into them.

Labels hold only what we wrote ourselves: models of the catalogue, route templates, codes of
errors. Never a key, a user, or anything that a client can make up.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from api_server.observability.numbers import Key, Numbers
from api_server.observability.record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/ai_request": "job",
    "run": "run",
    "ingest": "ingest",
}
"""The routes that reach a model, with their names in OpenTelemetry's conventions, where those have
one; work in the background has our own."""

CHATS = ("chat", "text_completion")
"""Operations whose latency is promised."""

INTERACTIVE = (*CHATS, "embeddings")
"""Operations with a client that waits for them. Of the others somebody asks later what came of
them: no promise is counted over them, neither to break it nor to hide that it is broken."""

RUN_ROUTE = "run"
"""Of the requests to a model that runs of assistants make; no client has such a path."""

INGEST_ROUTE = "ingest"
"""Of the requests for vectors of files, which no client has either."""

JOB_ROUTE = "/ai_request"
"""Of requests that accept a job, which reach no model, and of jobs, which do."""

ErrorKind = Literal["engine", "gateway", "shed", "limited", "client", "left"]
"""Who or what kept a request from its answer. The promise of `configs/slo.yaml` is broken by the
first three; `limited` is an app beyond a limit of its own, `client` a request that is wrong, `left`
one that nobody waits for any more."""

ERROR_KINDS: tuple[ErrorKind, ...] = ("engine", "gateway", "shed", "limited", "client", "left")

_KINDS: Mapping[str, ErrorKind] = {
    "overloaded": "shed",
    "queue_timeout": "shed",
    "queue_full": "shed",
    "rate_limit_exceeded": "limited",
    "cancelled": "left",
}

Phase = Literal["queued", "connecting", "generating"]
BreakerState = Literal["closed", "open", "half-open"]
_BREAKER_STATES: tuple[BreakerState, ...] = ("closed", "open", "half-open")
RunEnd = Literal["completed", "incomplete", "failed", "cancelled", "expired"]
_RUN_ENDS: tuple[RunEnd, ...] = ("completed", "incomplete", "failed", "cancelled", "expired")
LimitKind = Literal["requests", "tokens", "concurrent"]

# Fine around the latency targets of 0.5, 1 and 1.5 s.
_ANSWER = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0)
_FIRST_TOKEN = (*_ANSWER, 3.0, 5.0, 10.0, 30.0, 60.0)
_WHOLE = (*_FIRST_TOKEN, 120.0, 300.0, 600.0)
_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)
_QUEUE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0, 10.0, 30.0, 60.0)
_JOB = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_OVERHEAD = (
    *(25e-6, 50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 450e-6, 700e-6),
    *(0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0),
)


@dataclass(frozen=True)
class Family:
    """One metric: its name, its kind, what it says, its labels, a histogram's upper bounds.

    `across` is what becomes of the workers' gauges: what each has of its own is added up; of what
    all of them see, or of ages, the largest is taken.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Literal["sum", "max"] = "sum"

    @property
    def size(self) -> int:
        """Cells of one series: a histogram has its buckets, the one above them, and the sum."""
        return len(self.buckets) + 2 if self.buckets else 1


_GEN_AI = ("gen_ai_operation_name", "gen_ai_request_model")

FIRST_TOKEN = Family(
    "gen_ai_server_time_to_first_token_seconds",
    "histogram",
    "From a request's arrival to the engine's first token; of a streamed run, to its first text.",
    _GEN_AI,
    _FIRST_TOKEN,
)
PER_TOKEN = Family(
    "gen_ai_server_time_per_output_token_seconds",
    "histogram",
    "Mean time between the tokens of one answer, after its first.",
    _GEN_AI,
    _TOKEN,
)
CHUNK_GAP = Family(
    "gen_ai_client_operation_time_per_output_chunk_seconds",
    "histogram",
    "Time between the moments at which something of an answer came, after its first.",
    _GEN_AI,
    _TOKEN,
)
DURATION = Family(
    "gen_ai_server_request_duration_seconds",
    "histogram",
    "From a request's arrival to its last byte; error_type is empty where all went well.",
    (*_GEN_AI, "error_type"),
    _WHOLE,
)
TOKENS = Family(
    "gen_ai_client_token_usage_total",
    "counter",
    "Tokens as the engine counted them: input and output.",
    ("gen_ai_token_type", "gen_ai_request_model"),
)
CACHED_TOKENS = Family(
    "llm_gateway_cached_tokens_total",
    "counter",
    "Tokens of prompts (input) that an engine had in its cache; it counted them itself.",
    ("model",),
)
REQUESTS = Family(
    "llm_gateway_requests_total",
    "counter",
    "Requests that ended; status is 'none' where the client left before one was sent.",
    ("route", "status", "outcome"),
)
ERRORS = Family(
    "llm_gateway_errors_total",
    "counter",
    "Requests to models without a whole answer: engine, gateway, shed, limited, client or left.",
    ("model", "kind", "operation"),
)
QUEUE_WAIT = Family(
    "llm_gateway_queue_wait_seconds",
    "histogram",
    "How long a request waited for a free slot of its model.",
    ("model", "operation"),
    _QUEUE,
)
OVERHEAD = Family(
    "llm_gateway_overhead_seconds",
    "histogram",
    "The gateway's own time until an answer begins: without the queue and the engine.",
    ("stage", "operation"),
    _OVERHEAD,
)
IN_FLIGHT = Family(
    "llm_gateway_in_flight",
    "gauge",
    "Requests in a phase now: queued, connecting or generating.",
    ("model", "phase"),
)
OLDEST_QUEUED = Family(
    "llm_gateway_oldest_queued_seconds",
    "gauge",
    "How long the request has been waiting that has waited longest; 0 with an empty queue.",
    ("model",),
    across="max",
)
SLOTS = Family(
    "llm_gateway_slots",
    "gauge",
    "Answers that a model's engines can give at the same time when all are in order.",
    ("model",),
)
SLOTS_BUSY = Family(
    "llm_gateway_slots_busy",
    "gauge",
    "Answers that are being given, or that an engine was asked for; some may wait in the engine.",
    ("model",),
)
SHED = Family(
    "llm_gateway_shed_total",
    "counter",
    "Requests refused because too much is going on already.",
    ("model", "reason"),
)
CANCELLED = Family(
    "llm_gateway_cancelled_total",
    "counter",
    "Requests whose client left, by the phase they were in.",
    ("model", "phase"),
)
RETRIES = Family(
    "llm_gateway_retries_total",
    "counter",
    "Further attempts to reach an engine, all before the first byte of an answer.",
    ("model", "reason"),
)
DROPPED_MESSAGES = Family(
    "llm_gateway_dropped_messages_total",
    "counter",
    "Oldest messages left out of chats that did not fit.",
    ("model",),
)
FALLBACKS = Family(
    "llm_gateway_fallbacks_total",
    "counter",
    "Requests left to another model, because the engines of this one failed.",
    ("model", "fallback", "reason"),
)
LIMITED = Family(
    "llm_gateway_limited_total",
    "counter",
    "Requests refused because their app had used up a limit: requests, tokens or concurrent.",
    ("limit",),
)
REPLICA_SOUND = Family(
    "llm_gateway_replica_sound",
    "gauge",
    "1 for a replica with nothing against it, 0 for one that fails or is down; the sum of workers.",
    ("model", "replica"),
)
BREAKER = Family(
    "llm_gateway_breaker_state",
    "gauge",
    "Workers that find a replica's breaker in this state: closed, open or half-open.",
    ("model", "replica", "state"),
)
DEPENDENCY = Family(
    "llm_gateway_dependency_state",
    "gauge",
    "Workers that find a backing service in this state: up or down.",
    ("dependency", "state"),
)
SPOOL_ROWS = Family(
    "llm_gateway_spool_rows",
    "gauge",
    "Rows of the ledger that are on this machine's disk and not in PostgreSQL yet.",
)
LEDGER_SHIPPED = Family(
    "llm_gateway_ledger_shipped_total", "counter", "Rows of the ledger that PostgreSQL has taken."
)
LEDGER_LOST = Family(
    "llm_gateway_ledger_lost_total",
    "counter",
    "Rows that are not in the ledger: disk, spool_full, closed, torn, or put aside as refused.",
    ("reason",),
)
CACHE = Family(
    "llm_gateway_cache_total",
    "counter",
    "Requests that asked for an answer given before: hit, miss, or bypass where that cannot be.",
    ("result",),
)
JOBS = Family(
    "llm_gateway_jobs",
    "gauge",
    "Jobs that wait (queued) or run (processing), of all gateways; each gateway says the same.",
    ("state",),
)
OLDEST_JOB = Family(
    "llm_gateway_oldest_job_seconds",
    "gauge",
    "How long the job has been waiting that has waited longest; each gateway says the same.",
    across="max",
)
JOB_SECONDS = Family(
    "llm_gateway_job_seconds",
    "histogram",
    "How long jobs waited in the queue (wait) and ran (run), of those done in these processes.",
    ("kind",),
    _JOB,
)
RUN_SECONDS = Family(
    "llm_gateway_run_seconds",
    "histogram",
    "From the creation of a run to its end, of those that ended in these processes, by its status.",
    ("status",),
    _JOB,
)
DISK_FREE = Family(
    "llm_gateway_disk_free_bytes", "gauge", "Room on the disk of DATA_DIR.", across="max"
)
DISK_SIZE = Family(
    "llm_gateway_disk_size_bytes", "gauge", "The size of the disk of DATA_DIR.", across="max"
)
MEMORY = Family(
    "llm_gateway_resident_memory_bytes",
    "gauge",
    "Memory of the serving processes, added up; what they share is in it once for each.",
)
LOOP_LAG = Family(
    "llm_gateway_event_loop_lag_seconds",
    "histogram",
    "How late an event loop turned to something that was due; measured twice a second.",
    (),
    _LAG,
)
WORKERS = Family("llm_gateway_workers", "gauge", "Processes that serve now.")
START_TIME = Family(
    "llm_gateway_start_time_seconds",
    "gauge",
    "Since when this gateway counts, in seconds since 1970; each gateway has a time of its own.",
)

FAMILIES = (
    *(FIRST_TOKEN, PER_TOKEN, CHUNK_GAP, DURATION, TOKENS, CACHED_TOKENS),
    *(REQUESTS, ERRORS, QUEUE_WAIT, OVERHEAD, IN_FLIGHT, OLDEST_QUEUED, SLOTS, SLOTS_BUSY),
    *(SHED, LIMITED, CANCELLED, RETRIES, FALLBACKS, DROPPED_MESSAGES, REPLICA_SOUND, BREAKER),
    *(DEPENDENCY, CACHE, SPOOL_ROWS, LEDGER_SHIPPED, LEDGER_LOST),
    *(JOBS, OLDEST_JOB, JOB_SECONDS, RUN_SECONDS),
    *(DISK_FREE, DISK_SIZE, MEMORY, LOOP_LAG, WORKERS, START_TIME),
)
_BY_NAME = {family.name: family for family in FAMILIES}


@dataclass(frozen=True, slots=True)
class _Ended:
    """The cells that requests of one kind end in; looked up once for all of them."""

    requests: int
    is_generation: bool
    duration: int = 0
    first_token: int = 0
    per_token: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    queue_wait: int = 0
    overhead: int = 0
    cached_tokens: int = 0
    error: int | None = None


class ChunkGaps:
    """The times between what comes of one answer, counted here and put into the metric at its end.

    Made when the first of it is there. Constant memory, and less work than a write to the metric
    each time.
    """

    __slots__ = ("_began", "_counts", "_last")

    def __init__(self) -> None:
        self._counts = [0] * (len(_TOKEN) + 1)
        self._began = self._last = time.perf_counter()

    def heard(self) -> None:
        """More of the answer is there."""
        now = time.perf_counter()
        self._counts[bisect_left(_TOKEN, now - self._last)] += 1
        self._last = now

    def add_to(self, cells: "memoryview[float]", first: int) -> None:
        """Put all of them into the histogram that begins at the cell `first`."""
        for place, count in enumerate(self._counts, first):
            if count:
                cells[place] += count
        cells[first + len(self._counts)] += self._last - self._began


class Metrics:
    """Counts into one worker's numbers and renders the sum over all workers'.

    Belongs to the one thread that serves. Every method is a few writes to memory.
    """

    def __init__(
        self, models: Iterable[str], own: Numbers, all_numbers: Sequence[Numbers] | None = None
    ) -> None:
        self._models = frozenset(models)
        self._own = own
        self._all = [own] if all_numbers is None else list(all_numbers)
        self._cells = own.cells
        self._places = {key: first for key, first, _ in own.entries()}
        self._ended: dict[tuple[object, ...], _Ended] = {}
        self._in_flight: dict[tuple[str, str], int] = {}
        for key, first in self._places.items():  # a predecessor's, if it was killed
            if _BY_NAME[key[0]].kind == "gauge":
                self._cells[first] = 0.0
        for model in self._models:
            self._start_at_zero(model)
        for status in _RUN_ENDS:
            self._place(RUN_SECONDS, status)
        own.is_alive = True

    def request_ended(self, record: RequestRecord) -> None:
        """Count a request by what its record says. Called once for each, at its very end."""
        model = self._known(record.model)
        key = (record.route, record.status, record.outcome, model, record.error_code)
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = self._place_ended(record, model)
        cells = self._cells
        cells[ended.requests] += 1.0
        if record.outcome == "client_left":
            self._add(CANCELLED, model, record.phase)
        if ended.is_generation:
            self._generation_ended(record, ended)
        elif record.first_token_ms is not None:  # a client has streamed a run
            place = self._place(FIRST_TOKEN, OPERATIONS[RUN_ROUTE], model)
            observe(cells, place, _FIRST_TOKEN, record.first_token_ms / 1000)

    def _generation_ended(self, record: RequestRecord, ended: _Ended) -> None:
        cells = self._cells
        if ended.error is not None:
            cells[ended.error] += 1.0
        if record.cache is not None:
            self._add(CACHE, record.cache)
        seconds = time.perf_counter() - record.started
        observe(cells, ended.duration, _WHOLE, seconds)
        if record.queue_ms is not None:
            observe(cells, ended.queue_wait, _QUEUE, record.queue_ms / 1000)
        counted = not record.tokens_estimated and record.cache != "hit"
        if record.prompt_tokens is not None and counted:
            cells[ended.input_tokens] += record.prompt_tokens
            if record.cached_tokens:
                cells[ended.cached_tokens] += record.cached_tokens
        tokens = record.completion_tokens if counted else None
        if tokens is not None:
            cells[ended.output_tokens] += tokens
        if record.first_token_ms is not None:
            first_token = record.first_token_ms / 1000
            if record.route != RUN_ROUTE:  # what a client sees of that is counted where it streams
                observe(cells, ended.first_token, _FIRST_TOKEN, first_token)
            if tokens is not None and tokens > 1:
                each = (seconds - first_token) / (tokens - 1)
                observe(cells, ended.per_token, _TOKEN, each if each > 0 else 0.0)
        if record.own_ms is not None:
            observe(cells, ended.overhead, _OVERHEAD, record.own_ms / 1000)

    def chunks_came(self, record: RequestRecord, gaps: ChunkGaps) -> None:
        """An answer came in pieces, to its end or not."""
        operation = OPERATIONS.get(record.route, OTHER)
        place = self._place(CHUNK_GAP, operation, self._known(record.model))
        gaps.add_to(self._cells, place)

    def shed(self, model: str, reason: str) -> None:
        """A request was refused; `reason` is a word of ours, such as queue_full."""
        self._add(SHED, self._known(model), reason)

    def limited(self, limit: LimitKind) -> None:
        """A request was refused because of a limit of its app."""
        self._add(LIMITED, limit)

    def retried(self, model: str, reason: str) -> None:
        """An engine is tried once more; `reason` is a word of ours, such as an error's code."""
        self._add(RETRIES, self._known(model), reason)

    def fell_back(self, model: str, fallback: str, reason: str) -> None:
        """A request is left to another model; `reason` is the code of the error of this one."""
        self._add(FALLBACKS, self._known(model), self._known(fallback), reason)

    def replica_sound(self, model: str, replica: str, *, is_sound: bool) -> None:
        """A replica of the catalogue is in order, or is not."""
        self._cells[self._place(REPLICA_SOUND, model, replica)] = float(is_sound)

    def breaker(self, model: str, replica: str, state: BreakerState) -> None:
        """What a replica's breaker does now."""
        for each in _BREAKER_STATES:
            self._cells[self._place(BREAKER, model, replica, each)] = float(each == state)

    def dependency(self, name: str, *, is_up: bool) -> None:
        """A backing service answers, or does not."""
        self._cells[self._place(DEPENDENCY, name, "up")] = float(is_up)
        self._cells[self._place(DEPENDENCY, name, "down")] = float(not is_up)

    def dropped_messages(self, model: str, count: int) -> None:
        """So many messages of one chat were left out."""
        self._add(DROPPED_MESSAGES, self._known(model), by=count)

    def in_flight(self, model: str, phase: Phase, delta: int) -> None:
        """A request entered (+1) or left (-1) a phase of a model of the catalogue."""
        self._cells[self._in_flight[model, phase]] += delta

    def slots(self, model: str, slots: int) -> None:
        """This worker's share of what a model's engines can do at the same time."""
        self._cells[self._place(SLOTS, model)] = float(slots)

    def lane(self, model: str, *, busy: int, oldest_seconds: float) -> None:
        """How many answers of a model are being given, and how long somebody waits for one."""
        self._cells[self._place(SLOTS_BUSY, model)] = float(busy)
        self._cells[self._place(OLDEST_QUEUED, model)] = oldest_seconds

    def process(self, lag_seconds: float, resident_bytes: int | None) -> None:
        """How the process does; None where the system does not tell."""
        observe(self._cells, self._place(LOOP_LAG), _LAG, lag_seconds)
        if resident_bytes is not None:
            self._cells[self._place(MEMORY)] = float(resident_bytes)

    def disk(self, free_bytes: int, size_bytes: int) -> None:
        """The disk of DATA_DIR."""
        self._cells[self._place(DISK_FREE)] = float(free_bytes)
        self._cells[self._place(DISK_SIZE)] = float(size_bytes)

    def ledger_waiting(self, rows: int) -> None:
        """So many rows of this process' ledger wait to be shipped."""
        self._cells[self._place(SPOOL_ROWS)] = float(rows)

    def ledger_shipped(self, rows: int) -> None:
        """So many more are in the database."""
        self._add(LEDGER_SHIPPED, by=rows)

    def ledger_lost(self, reason: str, rows: int) -> None:
        """So many more will not be there; `reason` is a word of ours."""
        self._add(LEDGER_LOST, reason, by=rows)

    def jobs(self, queued: int, processing: int, oldest_seconds: float) -> None:
        """How many jobs there are; for one process of a gateway only."""
        self._cells[self._place(OLDEST_JOB)] = oldest_seconds
        self._cells[self._place(JOBS, "queued")] = float(queued)
        self._cells[self._place(JOBS, "processing")] = float(processing)

    def job_done(self, waited_seconds: float, ran_seconds: float) -> None:
        """A job came to its end here."""
        observe(self._cells, self._place(JOB_SECONDS, "wait"), _JOB, waited_seconds)
        observe(self._cells, self._place(JOB_SECONDS, "run"), _JOB, ran_seconds)

    def run_ended(self, status: RunEnd, seconds: float) -> None:
        """A run came to its end here; one that is begun again ends again."""
        observe(self._cells, self._place(RUN_SECONDS, status), _JOB, seconds)

    def render(self) -> bytes:
        """All metrics over all workers, in Prometheus' text format."""
        return render(self._all)

    def _add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        self._cells[self._place(family, *labels)] += by

    def _place(self, family: Family, *labels: str) -> int:
        key = (family.name, *labels)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._own.place(key, family.size)
        return place

    def _known(self, model: str | None) -> str:
        return model if model in self._models else OTHER

    def _place_ended(self, record: RequestRecord, model: str) -> _Ended:
        status = str(record.status) if record.status else "none"
        requests = self._place(REQUESTS, record.route, status, record.outcome)
        operation = OPERATIONS.get(record.route)
        if operation is None or (record.route == JOB_ROUTE and record.model is None):
            return _Ended(requests, is_generation=False)
        error = record.error_code or ("" if record.outcome == "ok" else record.outcome)
        kind = error_kind(record)
        return _Ended(
            requests,
            is_generation=True,
            duration=self._place(DURATION, operation, model, error),
            first_token=self._place(FIRST_TOKEN, operation, model),
            per_token=self._place(PER_TOKEN, operation, model),
            input_tokens=self._place(TOKENS, "input", model),
            output_tokens=self._place(TOKENS, "output", model),
            queue_wait=self._place(QUEUE_WAIT, model, operation),
            overhead=self._place(OVERHEAD, "before_answer", operation),
            cached_tokens=self._place(CACHED_TOKENS, model),
            error=None if kind is None else self._place(ERRORS, model, kind, operation),
        )

    def _start_at_zero(self, model: str) -> None:
        """A counter that is there before its first event makes that event an increase."""
        for token_type in ("input", "output"):
            self._place(TOKENS, token_type, model)
        for phase in ("queued", "connecting", "generating"):
            self._in_flight[model, phase] = self._place(IN_FLIGHT, model, phase)
        for operation in INTERACTIVE:
            for kind in ERROR_KINDS:
                self._place(ERRORS, model, kind, operation)
        for family in (FIRST_TOKEN, PER_TOKEN, CHUNK_GAP):
            self._place(family, "chat", model)
        self._place(DURATION, "chat", model, "")
        self._place(QUEUE_WAIT, model, "chat")
        for family in (DROPPED_MESSAGES, CACHED_TOKENS):
            self._place(family, model)


def error_kind(record: RequestRecord) -> ErrorKind | None:
    """What kept the request of a record from its whole answer; None if nothing did. Pure."""
    if record.outcome == "ok":
        return None
    if record.outcome in ("client_left", "client_stalled"):
        return "left"
    code = record.error_code or ""
    if code in _KINDS:
        return _KINDS[code]
    if code.startswith("engine_"):
        return "engine"
    return "client" if record.outcome == "error" and 400 <= record.status < 500 else "gateway"


def observe(
    cells: "memoryview[float]", first: int, buckets: tuple[float, ...], value: float
) -> None:
    """Put one value into a histogram that begins at the cell `first`."""
    cells[first + bisect_left(buckets, value)] += 1.0
    cells[first + len(buckets) + 1] += value


def render(all_numbers: Iterable[Numbers]) -> bytes:
    """The numbers of all workers, added up or the largest; gauges only of those that live."""
    series: dict[Key, list[float]] = {}
    workers = 0
    began = float("inf")
    for numbers in all_numbers:
        began = min(began, numbers.began)
        is_alive = numbers.is_alive
        workers += is_alive
        for key, first, size in numbers.entries():
            family = _BY_NAME[key[0]]
            if is_alive or family.kind != "gauge":
                totals = series.setdefault(key, [0.0] * size)
                for place in range(size):
                    value = numbers.cells[first + place]
                    total = totals[place]
                    totals[place] = max(total, value) if family.across == "max" else total + value
    series[(WORKERS.name,)] = [float(workers)]
    series[(START_TIME.name,)] = [began]
    lines: list[str] = []
    for family in FAMILIES:
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for key in sorted(key for key in series if key[0] == family.name):
            lines += _samples(family, key[1:], series[key])
    return ("\n".join(lines) + "\n").encode()


def _samples(family: Family, labels: tuple[str, ...], values: list[float]) -> list[str]:
    pairs = [
        f'{name}="{_escape(value)}"' for name, value in zip(family.labels, labels, strict=True)
    ]
    if family.kind != "histogram":
        return [f"{family.name}{_braced(pairs)} {_number(values[0])}"]
    lines, total = [], 0.0
    for bound, count in zip((*family.buckets, None), values, strict=False):
        total += count
        le = "+Inf" if bound is None else f"{bound:g}"
        braced = _braced([*pairs, f'le="{le}"'])
        lines.append(f"{family.name}_bucket{braced} {_number(total)}")
    lines.append(f"{family.name}_sum{_braced(pairs)} {_number(values[-1])}")
    lines.append(f"{family.name}_count{_braced(pairs)} {_number(total)}")
    return lines


def _braced(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
