"""From metrics to figures, verdicts, the document for scripts and its exit code."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from api_server.observability.metrics import ERROR_KINDS, FAMILIES, Metrics
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.settings import REPOSITORY
from monitoring.expressions import INTERACTIVE, OURS
from monitoring.slo import Workload
from monitoring.terminal import figures
from monitoring.terminal.drawing import Style, draw
from monitoring.terminal.exposition import parse
from monitoring.terminal.figures import models_in, now_of
from monitoring.terminal.gateway import NoGatewayError, Seen, UnreachableError
from monitoring.terminal.health import Health, read_health
from monitoring.terminal.report import document, exit_code
from monitoring.terminal.verdict import Verdict
from monitoring.terminal.watch import Watch

PROMISED = Workload(
    scenarios=["short"],
    latency_ms={"p50": 500, "p95": 1000, "p99": 1500},
    requests_per_second=20,
    error_rate=0.001,
)
WELL = Health("ok", "1.2.3", 1e7, ("large", "tiny"), ())
AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Gateway:
    """The metrics of one, told what happens, and a monitor that looks at them each second."""

    def __init__(self, model: str | None = None, workers: int = 1) -> None:
        self.metrics = Metrics(["tiny", "large"], Numbers())
        self.others = [Metrics(["tiny"], Numbers()) for _ in range(workers - 1)]
        self.watch = Watch("http://gateway", PROMISED, 60.0, model)
        self.moment = 0.0

    def chat(
        self, count: int = 1, *, model: str = "tiny", seconds: float = 0.1, **told: object
    ) -> None:
        for _ in range(count):
            record = RequestRecord("r", "POST", "/v1/chat/completions")
            record.route, record.model, record.status = record.path, model, 200
            record.started -= seconds
            for name, value in told.items():
                setattr(record, name, value)
            self.metrics.request_ended(record)

    def look(self) -> None:
        self.moment += 1.0
        text = self.metrics.render().decode()
        self.watch.saw(Seen(self.moment, parse(text), WELL))

    def restart(self) -> None:
        self.metrics = Metrics(["tiny", "large"], Numbers())


def test_of_several_gateways_none_is_silent_where_none_answers() -> None:
    gateway = Gateway()
    text = parse(gateway.metrics.render().decode())
    gateway.watch.saw(Seen(1.0, text, WELL), silent=["http://b"])
    assert document(gateway.watch.view, AT)["silent_gateways"] == ["http://b"]
    gateway.watch.failed(UnreachableError("gone"), 2.0)
    assert document(gateway.watch.view, AT)["silent_gateways"] == [], "the problem says so"


def test_every_metric_that_is_read_is_one_of_the_gateway_s() -> None:
    known = {family.name for family in FAMILIES}
    read = {
        value for name, value in vars(figures).items() if name.isupper() and isinstance(value, str)
    }
    assert len(read) >= 18
    assert read <= known
    assert set(ERROR_KINDS) > figures.BREACHES


def test_the_promise_is_the_one_that_the_rules_for_prometheus_watch() -> None:
    assert f'kind=~"{"|".join(sorted(figures.BREACHES))}",{INTERACTIVE}' == OURS


@pytest.mark.parametrize("route", ["/ai_request", "run", "ingest"])
def test_what_nobody_waits_for_breaks_no_promise_and_hides_none(route: str) -> None:
    gateway = Gateway()
    gateway.look()
    gateway.chat(10, seconds=2.0)
    gateway.chat(90, route=route, seconds=0.001, queue_ms=5000.0)
    gateway.chat(5, route=route, status=502, outcome="error", error_code="engine_error")
    gateway.look()
    lately = gateway.watch.view.lately
    assert lately is not None
    assert (lately.requests, lately.background, lately.breaches) == (10, 95, 0)
    assert lately.latency.count == 10
    assert lately.queue_wait.count == 0
    assert gateway.watch.view.requests_ever == 10
    met = {each.name: each.is_met for each in gateway.watch.view.verdicts}
    assert met == {"p50": False, "p95": False, "p99": False, "error_rate": True}
    shown = "\n".join(draw(gateway.watch.view, None, 2.0, 100, None, Style()))
    assert "95 requests in the background" in shown


def test_a_fresh_gateway_is_well_and_has_no_figures_that_are_none() -> None:
    gateway = Gateway()
    gateway.look()
    gateway.look()
    view = gateway.watch.view
    assert exit_code(view) == 0
    assert view.requests_ever == 0
    told = document(view, AT)
    json.dumps(told, allow_nan=False)
    assert told["figures"]["latency_seconds"] == {"count": 0, **dict.fromkeys(figures.PERCENTILES)}
    assert told["figures"]["error_rate"] is None
    assert [target["is_met"] for target in told["targets"]] == [None] * 4
    assert [target["target"] for target in told["targets"]] == [0.5, 1.0, 1.5, 0.001]


def test_what_happened_before_the_first_look_is_not_counted() -> None:
    gateway = Gateway()
    gateway.chat(7)
    gateway.look()
    gateway.chat(3, completion_tokens=10, prompt_tokens=4, first_token_ms=20.0)
    gateway.moment += 1.0
    gateway.look()
    view = gateway.watch.view
    assert view.lately is not None
    assert (view.requests_ever, view.lately.requests) == (10, 3)
    assert (view.lately.output_tokens, view.lately.input_tokens) == (30, 12)
    told = document(view, AT)["figures"]
    assert (told["output_tokens_per_second"], told["input_tokens_per_second"]) == (15, 6)
    assert (view.lately.latency.count, view.lately.first_token.count) == (3, 3)
    assert view.lately.latency.seconds["p50"] == pytest.approx(0.15, abs=0.051)


def test_vectors_are_requests_and_no_answers() -> None:
    gateway = Gateway()
    gateway.look()
    gateway.chat(2, route="/v1/embeddings", seconds=5.0)
    gateway.look()
    lately = gateway.watch.view.lately
    assert lately is not None
    assert (lately.requests, lately.latency.count) == (2, 0)


def test_one_model_alone() -> None:
    gateway = Gateway(model="large")
    gateway.look()
    gateway.chat(5, model="tiny")
    gateway.chat(2, model="large")
    gateway.metrics.in_flight("tiny", "queued", 4)
    gateway.metrics.in_flight("large", "generating", 1)
    gateway.metrics.shed("tiny", "queue_full")
    gateway.look()
    view = gateway.watch.view
    assert view.lately is not None
    assert view.now is not None
    assert (view.lately.requests, view.requests_ever) == (2, 2)
    assert (view.now.queued, view.now.in_flight) == (0, 1)
    assert view.lately.shed_by_reason == {}


def test_a_model_that_the_gateway_does_not_have_is_said() -> None:
    gateway = Gateway(model="huge")
    gateway.look()
    assert exit_code(gateway.watch.view) == 1
    problem = document(gateway.watch.view, AT)["problem"]
    assert problem == "it has no model 'huge'; known: large, tiny"


def failing(gateway: Gateway) -> None:
    gateway.chat(99)
    gateway.chat(1, status=502, outcome="error", error_code="engine_unavailable")


def slow(gateway: Gateway) -> None:
    gateway.chat(90)
    gateway.chat(10, seconds=1.2)


def harmless(gateway: Gateway) -> None:
    """The app's own limit, wrong requests, clients that left."""
    gateway.chat(10)
    gateway.chat(5, status=429, outcome="error", error_code="rate_limit_exceeded")
    gateway.chat(5, status=400, outcome="error", error_code="invalid_request")
    gateway.chat(5, status=200, outcome="client_left")


@pytest.mark.parametrize(
    ("load", "code", "missed"),
    [
        (lambda gateway: gateway.chat(50), 0, []),
        (failing, 1, ["error_rate"]),
        (slow, 1, ["p95"]),
        (harmless, 0, []),
    ],
)
def test_the_exit_code_says_whether_targets_hold(
    load: Callable[[Gateway], None], code: int, missed: list[str]
) -> None:
    gateway = Gateway()
    gateway.look()
    load(gateway)
    gateway.look()
    told = document(gateway.watch.view, AT)
    assert [each["name"] for each in told["targets"] if each["is_met"] is False] == missed
    assert exit_code(gateway.watch.view) == code
    assert told["is_well"] is (code == 0)


def test_a_figure_may_be_as_large_as_its_target() -> None:
    """As the gate and the rules have it, whose buckets end at the target and include it."""
    assert [Verdict("p95", 1.0, value).is_met for value in (1.0, 1.1, None)] == [True, False, None]


def test_errors_are_counted_by_kind() -> None:
    gateway = Gateway()
    gateway.look()
    harmless(gateway)
    failing(gateway)
    gateway.look()
    lately = gateway.watch.view.lately
    assert lately is not None
    assert lately.errors_by_kind == {"client": 5, "left": 5, "limited": 5, "engine": 1}
    assert (lately.requests, lately.answered, lately.breaches) == (125, 109, 1)
    assert lately.error_rate == 1 / 110
    assert lately.latency.count == 109
    assert lately.cancelled_by_phase == {"reading": 5}


def test_a_restart_takes_nothing_away() -> None:
    gateway = Gateway()
    gateway.chat(40)
    gateway.look()
    gateway.chat(3)
    gateway.look()
    gateway.restart()
    gateway.chat(2)
    gateway.look()
    lately = gateway.watch.view.lately
    assert lately is not None
    assert (lately.requests, lately.restarts) == (5, 1)
    assert lately.latency.count == 5


def test_what_is_not_well() -> None:
    gateway = Gateway()
    gateway.metrics.dependency("redis", is_up=False)
    gateway.metrics.dependency("postgres", is_up=True)
    gateway.metrics.replica_sound("tiny", "http://a", is_sound=True)
    gateway.metrics.replica_sound("tiny", "http://b", is_sound=False)
    gateway.metrics.ledger_waiting(12)
    gateway.look()
    now = gateway.watch.view.now
    assert now is not None
    assert now.dependencies_down == ("redis",)
    assert now.replicas_unwell == ("tiny at http://b",)
    assert (now.spool_rows, now.jobs_waiting, now.workers) == (12, None, 1)


def test_a_replica_that_one_of_two_workers_finds_unsound_is_unwell() -> None:
    text = (
        "# TYPE llm_gateway_workers gauge\nllm_gateway_workers 2\n"
        'llm_gateway_replica_sound{model="m",replica="a"} 2\n'
        'llm_gateway_replica_sound{model="m",replica="b"} 1\n'
    )
    assert now_of(parse(text).series, None).replicas_unwell == ("m at b",)
    assert models_in(parse(text).series) == {"m"}


def test_a_gateway_that_is_away_leaves_its_last_figures() -> None:
    gateway = Gateway()
    gateway.look()
    gateway.chat(3)
    gateway.look()
    gateway.watch.failed(UnreachableError("Connection refused"), 3.0)
    gateway.watch.failed(UnreachableError("Connection refused"), 4.0)
    view = gateway.watch.view
    assert view.trouble is not None
    assert (view.trouble.since, view.taken) == (3.0, 2.0)
    assert view.lately is not None
    told = document(view, AT)
    assert (exit_code(view), told["state"], told["figures"]) == (2, "not_reachable", None)
    gateway.moment = 9.0
    gateway.look()
    assert gateway.watch.view.trouble is None
    assert exit_code(gateway.watch.view) == 0


def test_who_is_no_gateway_is_told_from_nobody() -> None:
    watch = Watch("http://x", PROMISED, 60.0, None)
    watch.failed(NoGatewayError("/metrics is answered with 404"), 1.0)
    told = document(watch.view, AT)
    assert (exit_code(watch.view), told["state"]) == (1, "not_ok")
    assert told["health"] is None
    assert told["requests_ever"] is None


def test_the_document_has_the_same_keys_whatever_happened() -> None:
    gateway = Gateway()
    gateway.look()
    gateway.look()
    nobody = Watch("http://x", PROMISED, 60.0, None)
    nobody.failed(UnreachableError("no"), 1.0)
    assert document(gateway.watch.view, AT).keys() == document(nobody.view, AT).keys()
    assert document(nobody.view, AT)["taken_at"] == "2026-11-21T12:00:00.000+00:00"


def test_the_documentation_has_every_key_and_shows_what_is_drawn() -> None:
    text = (REPOSITORY / "docs/monitor.md").read_text(encoding="utf-8")
    gateway = Gateway()
    gateway.look()
    gateway.look()
    assert [key for key in document(gateway.watch.view, AT) if f"`{key}`" not in text] == []
    labels = {
        each[:14].strip() for each in draw(gateway.watch.view, None, 2.0, 80, None, Style())[3:]
    }
    shown = {each[:14].strip() for each in text.split("```")[1].splitlines()}
    assert labels <= shown


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"models": 1}', b"\xff", b'{"models": [1]}', b"[" * 200_000]
)
def test_a_health_that_is_none_is_none(body: bytes) -> None:
    assert read_health(body) is None
