"""What `/metrics` says: valid, bounded, summed over workers, and never going backwards."""

from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from api_server import errors
from api_server.errors import ApiError
from api_server.observability.metrics import (
    DURATION,
    ERROR_KINDS,
    FAMILIES,
    FIRST_TOKEN,
    ChunkGaps,
    Metrics,
    error_kind,
)
from api_server.observability.numbers import Numbers
from api_server.observability.record import RequestRecord
from api_server.settings import REPOSITORY
from monitoring.slo import load_slo
from tests.samples import samples

CHAT = "/v1/chat/completions"


def record(**fields: object) -> RequestRecord:
    result = RequestRecord(
        "id", "POST", CHAT, route=CHAT, status=200, model="m", phase="generating"
    )
    for name, value in fields.items():
        assert hasattr(result, name)
        setattr(result, name, value)
    return result


def chat() -> RequestRecord:
    return record(
        queue_ms=20.0,
        engine_ms=30.0,
        own_ms=0.5,
        first_token_ms=50.5,
        prompt_tokens=7,
        completion_tokens=3,
    )


def workers(count: int, models: Iterable[str] = ("m",)) -> tuple[list[Numbers], list[Metrics]]:
    numbers = [Numbers() for _ in range(count)]
    return numbers, [Metrics(models, own, numbers) for own in numbers]


def test_valid_without_traffic_and_every_family_is_there() -> None:
    _, (metrics,) = workers(1)
    families = {family.name: family for family in parse(metrics.render().decode())}
    for family in FAMILIES:
        parsed = families[family.name.removesuffix("_total")]
        assert (parsed.type, parsed.documentation) == (family.kind, family.help)
    assert samples(metrics.render())["llm_gateway_workers",] == 1


def test_a_chat_is_counted_in_every_metric_it_touches() -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(chat())
    got = samples(metrics.render())
    assert got["llm_gateway_requests_total", "ok", CHAT, "200"] == 1
    assert got["gen_ai_client_token_usage_total", "m", "input"] == 7
    assert got["gen_ai_client_token_usage_total", "m", "output"] == 3
    first_token = "gen_ai_server_time_to_first_token_seconds"
    assert got[f"{first_token}_bucket", "chat", "m", "0.05"] == 0
    assert got[f"{first_token}_bucket", "chat", "m", "0.1"] == 1
    assert got[f"{first_token}_bucket", "chat", "m", "+Inf"] == 1
    assert abs(got[f"{first_token}_sum", "chat", "m"] - 0.0505) < 1e-9
    assert got["gen_ai_server_request_duration_seconds_count", "", "chat", "m"] == 1
    assert got["gen_ai_server_time_per_output_token_seconds_count", "chat", "m"] == 1
    assert got["llm_gateway_queue_wait_seconds_bucket", "0.025", "m", "chat"] == 1
    assert got["llm_gateway_queue_wait_seconds_bucket", "0.01", "m", "chat"] == 0
    assert abs(got["llm_gateway_overhead_seconds_sum", "chat", "before_answer"] - 0.0005) < 1e-9


def test_an_answer_in_one_piece_has_no_first_token() -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(record(queue_ms=0.0, engine_ms=30.0, own_ms=0.2, completion_tokens=3))
    got = samples(metrics.render())
    assert got["gen_ai_server_time_to_first_token_seconds_count", "chat", "m"] == 0
    assert got["gen_ai_server_time_per_output_token_seconds_count", "chat", "m"] == 0
    assert got["llm_gateway_overhead_seconds_bucket", "0.0002", "chat", "before_answer"] == 1


def test_a_value_on_a_bound_belongs_to_it() -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(record(first_token_ms=500.0))
    got = samples(metrics.render())
    assert got["gen_ai_server_time_to_first_token_seconds_bucket", "chat", "m", "0.5"] == 1
    assert got["gen_ai_server_time_to_first_token_seconds_bucket", "chat", "m", "0.4"] == 0


def test_errors_and_departed_clients_have_their_own_series() -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(record(status=502, outcome="error", error_code="engine_error"))
    metrics.request_ended(record(status=0, outcome="client_left", phase="queued"))
    got = samples(metrics.render())
    duration = "gen_ai_server_request_duration_seconds_count"
    assert got[duration, "engine_error", "chat", "m"] == 1
    assert got[duration, "client_left", "chat", "m"] == 1
    assert got["llm_gateway_requests_total", "client_left", CHAT, "none"] == 1
    assert got["llm_gateway_cancelled_total", "m", "queued"] == 1
    assert got["gen_ai_server_time_to_first_token_seconds_count", "chat", "m"] == 0


def test_events_are_counted_by_model_and_reason() -> None:
    _, (metrics,) = workers(1)
    metrics.shed("m", "queue_full")
    metrics.retried("m", "engine_unavailable")
    metrics.dropped_messages("m", 4)
    metrics.in_flight("m", "queued", 1)
    metrics.in_flight("m", "queued", 1)
    metrics.in_flight("m", "queued", -1)
    got = samples(metrics.render())
    assert got["llm_gateway_shed_total", "m", "queue_full"] == 1
    assert got["llm_gateway_retries_total", "m", "engine_unavailable"] == 1
    assert got["llm_gateway_dropped_messages_total", "m"] == 4
    assert got["llm_gateway_in_flight", "m", "queued"] == 1
    assert got["llm_gateway_in_flight", "m", "generating"] == 0


def test_a_scrape_of_any_worker_is_the_sum_over_all() -> None:
    _, every = workers(3)
    for index, metrics in enumerate(every):
        for _ in range(index + 1):
            metrics.request_ended(chat())
        metrics.in_flight("m", "generating", 1)
    texts = {metrics.render() for metrics in every}
    assert len(texts) == 1
    got = samples(texts.pop())
    assert got["llm_gateway_requests_total", "ok", CHAT, "200"] == 6
    assert got["gen_ai_client_token_usage_total", "m", "output"] == 18
    assert got["gen_ai_server_time_to_first_token_seconds_count", "chat", "m"] == 6
    assert got["llm_gateway_in_flight", "m", "generating"] == 3
    assert got["llm_gateway_workers",] == 3


def test_a_dead_worker_keeps_its_counts_and_loses_its_gauges() -> None:
    numbers, every = workers(2)
    for metrics in every:
        metrics.request_ended(chat())
        metrics.in_flight("m", "generating", 1)
    numbers[0].is_alive = False
    got = samples(every[1].render())
    assert got["llm_gateway_requests_total", "ok", CHAT, "200"] == 2
    assert got["llm_gateway_in_flight", "m", "generating"] == 1
    assert got["llm_gateway_workers",] == 1


def test_counts_go_on_where_a_predecessor_died_and_gauges_begin_at_zero() -> None:
    numbers, every = workers(2)
    every[0].request_ended(chat())
    every[0].in_flight("m", "generating", 1)
    every[0].shed("m", "queue_full")
    successor = Metrics(["m"], numbers[0], numbers)
    successor.request_ended(chat())
    successor.request_ended(record(status=429, outcome="error", error_code="overloaded"))
    got = samples(every[1].render())
    assert got["llm_gateway_requests_total", "ok", CHAT, "200"] == 2
    assert got["llm_gateway_requests_total", "error", CHAT, "429"] == 1
    assert got["llm_gateway_shed_total", "m", "queue_full"] == 1
    assert got["llm_gateway_in_flight", "m", "generating"] == 0
    assert got["llm_gateway_workers",] == 2


def test_a_name_half_written_at_death_is_not_seen_and_is_written_over() -> None:
    numbers = Numbers()
    assert [size for _, _, size in numbers.entries()] == []
    first = numbers.place(("llm_gateway_shed_total", "m", "a"), 1)
    used = numbers._used
    numbers._lines[used : used + 9] = b'[["llm_ga'
    second = numbers.place(("llm_gateway_shed_total", "m", "b"), 1)
    assert second == first + 1
    assert [key[-1] for key, _, _ in numbers.entries()] == ["a", "b"]


def test_what_clients_make_up_is_no_label() -> None:
    _, (metrics,) = workers(1)
    for number in range(1000):
        metrics.request_ended(record(model=f"made-up-{number}"))
        metrics.shed(f"made-up-{number}", "queue_full")
    text = metrics.render()
    assert b"made-up" not in text
    got = samples(text)
    assert got["gen_ai_server_request_duration_seconds_count", "", "chat", "other"] == 1000
    assert got["llm_gateway_shed_total", "other", "queue_full"] == 1000
    assert len(metrics._ended) == 1


def test_without_room_a_new_series_is_lost_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(chat())
    before = samples(metrics.render())
    for number in range(20):
        metrics.shed("m", f"{number}" * 60_000)
    assert "no room for another metric" in caplog.text
    metrics.request_ended(chat())
    after = samples(metrics.render())
    assert after["llm_gateway_requests_total", "ok", CHAT, "200"] == 2
    assert before.keys() < after.keys()


def test_label_values_are_escaped() -> None:
    _, (metrics,) = workers(1, models=['a"b\\c'])
    metrics.shed('a"b\\c', "line\nbreak")
    assert samples(metrics.render())["llm_gateway_shed_total", 'a"b\\c', "line\nbreak"] == 1


def test_labels_are_few_and_name_no_person() -> None:
    for family in FAMILIES:
        assert len(family.labels) <= 6
        assert not {"key", "user", "app", "request_id", "path"} & set(family.labels)
        assert family.size <= 64
        assert list(family.buckets) == sorted(set(family.buckets))


def test_every_metric_stands_in_the_docs() -> None:
    text = (REPOSITORY / "docs/metrics.md").read_text()
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |"
        for family in FAMILIES
    ]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    metrics = Metrics(["m"], Numbers())
    for tokens in (0, 1):
        metrics.request_ended(record(first_token_ms=10.0, completion_tokens=tokens))
    got = samples(metrics.render())
    assert got["gen_ai_server_time_to_first_token_seconds_count", "chat", "m"] == 2
    assert got["gen_ai_server_time_per_output_token_seconds_count", "chat", "m"] == 0


def test_a_line_that_is_not_whole_yet_is_not_read() -> None:
    """Another process may see how far a writer got before it sees what it wrote."""
    numbers = Numbers()
    numbers.place(("a",), 1)
    numbers.place(("b",), 1)
    numbers._lines[15:] = bytes(len(numbers._lines) - 15)
    assert [key for key, _, _ in numbers.entries()] == [("a",)]


def test_what_an_engine_had_in_its_cache_is_counted() -> None:
    _, (metrics,) = workers(1)
    metrics.request_ended(record(prompt_tokens=70, completion_tokens=3, cached_tokens=64))
    metrics.request_ended(record(prompt_tokens=70, cached_tokens=64, tokens_estimated=True))
    metrics.request_ended(record(prompt_tokens=70, cached_tokens=64, cache="hit"))
    got = samples(metrics.render())
    assert got["llm_gateway_cached_tokens_total", "m"] == 64
    assert got["gen_ai_client_token_usage_total", "m", "input"] == 70


def test_gaps_within_an_answer_are_counted_where_they_belong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (metrics,) = workers(1)
    now = 100.0
    monkeypatch.setattr("api_server.observability.metrics.time.perf_counter", lambda: now)
    gaps = ChunkGaps()
    for seconds in (0.0005, 0.02, 0.4, 30.0):
        now += seconds
        gaps.heard()
    metrics.chunks_came(record(), gaps)
    metrics.chunks_came(record(), ChunkGaps())  # an answer in one piece has none
    got = samples(metrics.render())
    name = "gen_ai_client_operation_time_per_output_chunk_seconds"
    assert got[f"{name}_bucket", "chat", "m", "0.001"] == 1
    assert got[f"{name}_bucket", "chat", "m", "0.015"] == 1
    assert got[f"{name}_bucket", "chat", "m", "0.03"] == 2
    assert got[f"{name}_bucket", "chat", "m", "0.5"] == 3
    assert got[f"{name}_count", "chat", "m"] == 4
    assert got[f"{name}_sum", "chat", "m"] == pytest.approx(30.4205)


NOT_THE_CLIENTS: dict[str, set[type[ApiError]]] = {
    "engine": {
        *(errors.InferenceError, errors.TruncatedAnswerError, errors.NoAnswerError),
        *(errors.ResourceNotAvailableError, errors.EngineBusyError, errors.EngineTimeoutError),
    },
    "gateway": {
        *(ApiError, errors.InternalError, errors.ModelMisconfiguredError),
        *(errors.NoSuitableHandlerError, errors.DependencyDownError, errors.ShuttingDownError),
        errors.NotSetUpError,
    },
    "shed": {errors.OverloadedError, errors.QueueTimeoutError, errors.QueueFullError},
    "limited": {errors.RateLimitedError, errors.TurnOverError},
}


def test_every_error_has_its_kind() -> None:
    every = [each for each in vars(errors).values() if isinstance(each, type)]
    found: dict[str | None, set[type[ApiError]]] = {}
    for error in (each for each in every if issubclass(each, ApiError)):
        ended = record(status=error.status, outcome="error", error_code=error.code)
        found.setdefault(error_kind(ended), set()).add(error)
    of_clients = found.pop("client")
    assert found == NOT_THE_CLIENTS
    assert {error.status // 100 for error in of_clients} == {4}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, None),
        ({"status": 0, "outcome": "client_left"}, "left"),
        ({"outcome": "client_stalled", "error_code": "engine_timeout"}, "left"),
        ({"status": 0, "outcome": "error", "error_code": "cancelled"}, "left"),
        ({"outcome": "error_in_stream", "error_code": "engine_truncated"}, "engine"),
        ({"outcome": "error_in_stream", "error_code": "shutting_down"}, "gateway"),
        ({"status": 0, "outcome": "error", "error_code": "configuration_error"}, "gateway"),
    ],
)
def test_what_is_no_error_of_ours_and_what_comes_late(
    fields: dict[str, object], kind: str | None
) -> None:
    assert error_kind(record(**fields)) == kind


def test_each_request_without_its_answer_is_one_error() -> None:
    _, (metrics,) = workers(1)
    before = samples(metrics.render())
    assert all(before["llm_gateway_errors_total", kind, "m", "chat"] == 0 for kind in ERROR_KINDS)
    metrics.request_ended(chat())
    for kind, code, status in (
        ("engine", "engine_error", 502),
        ("shed", "overloaded", 429),
        ("limited", "rate_limit_exceeded", 429),
    ):
        metrics.request_ended(record(status=status, outcome="error", error_code=code))
        assert samples(metrics.render())["llm_gateway_errors_total", kind, "m", "chat"] == 1
    metrics.request_ended(record(route="/v1/models", status=500, outcome="error"))
    after = samples(metrics.render())
    errors = [value for key, value in after.items() if key[0] == "llm_gateway_errors_total"]
    assert sum(errors) == 3


def test_of_what_all_workers_see_the_largest_is_said() -> None:
    numbers, every = workers(3)
    for busy, metrics in enumerate(every, 1):
        metrics.lane("m", busy=busy, oldest_seconds=busy * 1.5)
        metrics.slots("m", 4)
        metrics.disk(100, 1000)
        metrics.process(0.003, 50)
    got = samples(every[0].render())
    assert got["llm_gateway_oldest_queued_seconds", "m"] == 4.5
    assert got["llm_gateway_slots_busy", "m"] == 6
    assert got["llm_gateway_slots", "m"] == 12
    assert (got["llm_gateway_disk_free_bytes",], got["llm_gateway_disk_size_bytes",]) == (100, 1000)
    assert got["llm_gateway_resident_memory_bytes",] == 150
    assert got["llm_gateway_event_loop_lag_seconds_bucket", "0.005"] == 3
    numbers[2].is_alive = False
    assert samples(every[0].render())["llm_gateway_oldest_queued_seconds", "m"] == 3


def test_a_breaker_is_in_one_state() -> None:
    _, every = workers(2)
    every[0].breaker("m", "a:1", "closed")
    every[0].breaker("m", "a:1", "open")
    every[1].breaker("m", "a:1", "half-open")
    got = samples(every[0].render())
    states = [got["llm_gateway_breaker_state", "m", "a:1", s] for s in ("closed", "open")]
    assert [*states, got["llm_gateway_breaker_state", "m", "a:1", "half-open"]] == [0, 1, 1]


def test_a_model_nobody_asked_yet_has_its_series() -> None:
    """Else the first event of each would be no increase, and panels of a fresh stack empty."""
    _, (metrics,) = workers(1)
    got = samples(metrics.render())
    for name in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert any(key[0] == f"gen_ai_server_{name}_seconds_count" for key in got)


def test_buckets_have_an_edge_at_every_target() -> None:
    """Else the share of requests within a target would be a guess between two of them."""
    for workload in load_slo().workloads.values():
        for milliseconds in workload.latency_ms.values():
            assert milliseconds / 1000 in DURATION.buckets
            assert milliseconds / 1000 in FIRST_TOKEN.buckets


def test_accepting_a_job_reaches_no_model_and_doing_it_does() -> None:
    """Else a burst of accepted jobs would look like as many fast chats."""
    _, (metrics,) = workers(1)
    metrics.request_ended(record(route="/ai_request", status=202, model=None))
    name = "gen_ai_server_request_duration_seconds_count"

    def counted() -> float:
        return sum(value for key, value in samples(metrics.render()).items() if key[0] == name)

    assert counted() == 0
    metrics.request_ended(record(route="/ai_request"))
    metrics.request_ended(record(model=None, status=400, outcome="error"))
    assert counted() == 2


def test_each_operation_has_its_own_series() -> None:
    _, (metrics,) = workers(1)
    routes = (CHAT, "/v1/completions", "/v1/embeddings", "/ai_request", "run", "ingest")
    operations = ("chat", "text_completion", "embeddings", "job", "run", "ingest")
    for count, route in enumerate(routes, 1):
        for _ in range(count):
            metrics.request_ended(record(route=route, queue_ms=1.0, own_ms=1.0, first_token_ms=5.0))
            failed = record(route=route, status=502, outcome="error", error_code="engine_error")
            metrics.request_ended(failed)
    got = samples(metrics.render())
    for count, operation in enumerate(operations, 1):
        assert got["gen_ai_server_request_duration_seconds_count", "", operation, "m"] == count
        assert got["llm_gateway_queue_wait_seconds_count", "m", operation] == count
        assert got["llm_gateway_overhead_seconds_count", operation, "before_answer"] == count
        assert got["llm_gateway_errors_total", "engine", "m", operation] == count


def test_the_first_token_of_a_run_is_what_its_stream_showed() -> None:
    """Not what the leg saw that asked for it: a client waits for queue, searches and functions."""
    _, (metrics,) = workers(1)
    metrics.request_ended(record(route="run", first_token_ms=5.0))
    metrics.request_ended(record(route="/v1/threads/runs", first_token_ms=3000.0))
    metrics.request_ended(record(route="/v1/threads/runs"))
    got = samples(metrics.render())
    name = "gen_ai_server_time_to_first_token_seconds"
    assert got[f"{name}_count", "run", "m"] == 1
    assert got[f"{name}_sum", "run", "m"] == 3
