"""*Where the time goes*: queue, prefill, decode, gateway; batching; replicas; the front. Pure."""

from collections.abc import Iterator

from monitoring.expressions import (
    CHATS,
    DURATION,
    FIRST_TOKEN,
    INTERACTIVE,
    OF_CHATS,
    WHOLE_CHATS,
)
from monitoring.panels import WINDOW, Board, Panel, Prom, Row, percentiles, quantile

ENGINE = 'job="llama-cpp"'
NO_ANSWERS = "no answers in this time"
NO_ENGINE = "no llama.cpp engine is watched"
NO_FRONT = "no front is watched"


def board() -> Board:
    """It needs no targets."""
    return Board(
        uid="stack-time",
        title="LLM serving: where the time goes",
        description="Where an answer's milliseconds went, and what the engines make of their time.",
        rows=[
            Row(9, [_of_an_answer(), _in_flight()]),
            Row(8, [_batching(), _occupancy()]),
            Row(8, [_tokens(), _cached()]),
            Row(8, list(_quantiles())),
            Row(8, list(_replicas())),
            Row(8, list(_soundness())),
            Row(8, list(_front())),
            Row(7, list(_machine())),
        ],
    )


def _of_an_answer() -> Panel:
    """All are sums over the same answers, so that the stack is as high as their mean duration."""
    answers = f"sum(rate({DURATION}_count{{{WHOLE_CHATS}}}[{WINDOW}]))"
    whole = f"sum(rate({DURATION}_sum{{{WHOLE_CHATS}}}[{WINDOW}]))"
    first = f"sum(rate({FIRST_TOKEN}_sum{{{CHATS}}}[{WINDOW}]))"
    queue = f"sum(rate(llm_gateway_queue_wait_seconds_sum{{{OF_CHATS}}}[{WINDOW}]))"
    own = f"sum(rate(llm_gateway_overhead_seconds_sum{{{OF_CHATS}}}[{WINDOW}]))"
    each = f"/ ({answers} > 0)"
    return Panel(
        title="Where the time of an answer went",
        description=(
            "The mean chat. Queue: waiting for a slot. Gateway: its own work until an answer "
            "begins. Prefill: the engine until its first token. Decode: from there to the last "
            "byte. Together they are the mean duration."
        ),
        unit="s",
        queries=[
            Prom("queue", f"{queue}\n{each}"),
            Prom("gateway", f"{own}\n{each}"),
            Prom("prefill", f"clamp_min({first} - {queue} - {own}, 0)\n{each}"),
            Prom("decode", f"clamp_min({whole} - {first}, 0)\n{each}"),
        ],
        draw="stack",
        quiet=NO_ANSWERS,
    )


def _in_flight() -> Panel:
    return Panel(
        title="Requests by what they do now",
        description=(
            "Queued: they wait for a free slot. Connecting: the engine was asked and says nothing "
            "yet, so this is its prefill. Generating: tokens come."
        ),
        unit="short",
        queries=[Prom("{{phase}}", "sum by (phase) (llm_gateway_in_flight)")],
        draw="stack",
    )


def _busy_in_step() -> str:
    """llama.cpp tells the mean since its start; lately it was this. Of an engine that
    began anew in between there is nothing for so long.
    """
    mean = f"llamacpp:n_busy_slots_per_decode{{{ENGINE}}}"
    steps = f"llamacpp:n_decode_total{{{ENGINE}}}"
    return (
        f"({mean} * {steps} - {mean} offset {WINDOW} * {steps} offset {WINDOW})\n"
        f"/ ({steps} - {steps} offset {WINDOW} > 0)"
    )


def _batching() -> Panel:
    return Panel(
        title="Busy slots in a decode step",
        description=(
            "How many answers got a token in one step of an engine lately, and since its start, "
            "beside the slots that all gateways count on. Near 1 under load, nothing is batched."
        ),
        unit="short",
        queries=[
            Prom("busy in {{instance}}", f"{_busy_in_step()} >= 0"),
            Prom(
                "busy in {{instance}} since its start",
                f"llamacpp:n_busy_slots_per_decode{{{ENGINE}}}",
            ),
            Prom("slots of {{model}}", "sum by (model) (llm_gateway_slots)"),
        ],
        decimals=1,
    )


def _occupancy() -> Panel:
    return Panel(
        title="Slots in use",
        description=(
            "Of a model's slots, those that give an answer or were asked for one: at 100 % the "
            "queue begins. Waiting in the engine should be 0, as the gateway's queue is before it."
        ),
        unit="percentunit",
        queries=[
            Prom(
                "{{model}}",
                "sum by (model) (llm_gateway_slots_busy)\n/ sum by (model) (llm_gateway_slots)",
            ),
            Prom(
                "waiting in the engines, of all slots",
                f"(sum(llamacpp:requests_deferred{{{ENGINE}}}) or vector(0))\n"
                "/ scalar(sum(llm_gateway_slots))",
            ),
        ],
    )


def _tokens() -> Panel:
    return Panel(
        title="Tokens",
        description=(
            "Tokens of prompts (input, those in an engine's cache too) and answers (output), as "
            "the engines counted them."
        ),
        unit="suffix: tokens/s",
        queries=[
            Prom(
                "{{gen_ai_token_type}}",
                f"sum by (gen_ai_token_type) (rate(gen_ai_client_token_usage_total[{WINDOW}]))",
            )
        ],
    )


def _cached() -> Panel:
    prompts = f'rate(gen_ai_client_token_usage_total{{gen_ai_token_type="input"}}[{WINDOW}])'
    return Panel(
        title="Prompts found in an engine's cache",
        description=(
            "The share of the tokens of prompts that an engine had computed before: shared "
            "beginnings, chats that go on. They cost no prefill."
        ),
        unit="percentunit",
        queries=[
            Prom(
                "{{model}}",
                f"sum by (model) (rate(llm_gateway_cached_tokens_total[{WINDOW}]))\n"
                f'/ on (model) (sum by (model) (label_replace({prompts}, "model", "$1", '
                '"gen_ai_request_model", "(.*)")) > 0)',
            )
        ],
        most=1,
        quiet="no prompts in this time",
    )


def _quantiles() -> Iterator[Panel]:
    chats, interactive = f"{{{CHATS}}}", f"{{{INTERACTIVE}}}"
    yield _spread(
        "Queue wait",
        "How long requests waited for a free slot of their model; not jobs, runs and files.",
        f"llm_gateway_queue_wait_seconds_bucket{interactive}",
        width=6,
    )
    yield _spread(
        "The gateway's own time",
        "What the gateway adds until an answer begins, without the queue and the engine.",
        f"llm_gateway_overhead_seconds_bucket{interactive}",
        width=6,
    )
    yield _spread(
        "Time per output token",
        "Mean time between the tokens of one answer, after its first.",
        f"gen_ai_server_time_per_output_token_seconds_bucket{chats}",
        width=6,
    )
    yield _spread(
        "Gaps in a stream",
        "The time between two pieces of a streamed answer: p99 is what a reader sees as halting.",
        f"gen_ai_client_operation_time_per_output_chunk_seconds_bucket{chats}",
        width=6,
    )


def _spread(title: str, description: str, buckets: str, width: int) -> Panel:
    return Panel(
        title=title,
        description=description,
        unit="s",
        queries=percentiles(buckets),
        width=width,
        quiet=NO_ANSWERS,
    )


def _replicas() -> Iterator[Panel]:
    yield Panel(
        title="Requests in each engine",
        description="Of llama.cpp's engines: worked on now, and waiting inside for a slot.",
        unit="short",
        queries=[
            Prom("{{instance}}", f"llamacpp:requests_processing{{{ENGINE}}}"),
            Prom("{{instance}} waiting", f"llamacpp:requests_deferred{{{ENGINE}}}"),
        ],
        width=8,
        quiet=NO_ENGINE,
    )
    yield Panel(
        title="Output of each engine",
        description="Tokens of answers that each of llama.cpp's engines makes.",
        unit="suffix: tokens/s",
        queries=[
            Prom("{{instance}}", f"rate(llamacpp:tokens_predicted_total{{{ENGINE}}}[{WINDOW}])")
        ],
        width=8,
        quiet=NO_ENGINE,
    )
    yield Panel(
        title="Speed of each engine",
        description=(
            "Tokens of prompts for each second that llama.cpp spent on prompts, and tokens of one "
            "answer for each second in its slot: what the hardware can do, however much there is "
            "to do."
        ),
        unit="suffix: tokens/s",
        queries=[
            Prom(f"{{{{instance}}}} {name}", _speed(tokens, seconds))
            for name, tokens, seconds in (
                ("prefill", "llamacpp:prompt_tokens_total", "llamacpp:prompt_seconds_total"),
                (
                    "decode",
                    "llamacpp:tokens_predicted_total",
                    "llamacpp:tokens_predicted_seconds_total",
                ),
            )
        ],
        width=8,
        quiet=NO_ANSWERS,
    )


def _speed(tokens: str, seconds: str) -> str:
    return f"rate({tokens}{{{ENGINE}}}[{WINDOW}])\n/ (rate({seconds}{{{ENGINE}}}[{WINDOW}]) > 0)"


def _soundness() -> Iterator[Panel]:
    yield Panel(
        title="Sound replicas",
        description="The share of the gateways' processes that find nothing wrong with a replica.",
        unit="percentunit",
        queries=[
            Prom(
                "{{model}} {{replica}}",
                "sum by (model, replica) (llm_gateway_replica_sound)\n"
                "/ scalar(sum(llm_gateway_workers))",
            )
        ],
        width=8,
        most=1,
    )
    yield Panel(
        title="Breakers that are not closed",
        description=(
            "Processes that send a replica nothing (open) or one request to try it (half-open), "
            "as it failed again and again."
        ),
        unit="short",
        queries=[
            Prom(
                "{{model}} {{replica}} {{state}}",
                'sum by (model, replica, state) (llm_gateway_breaker_state{state!="closed"})',
            )
        ],
        width=8,
        quiet="no breaker was needed yet",
    )
    yield Panel(
        title="Further tries",
        description=(
            "Requests sent to another replica, or left to another model, before the first byte of "
            "an answer."
        ),
        unit="reqps",
        queries=[
            Prom("retries", f"sum(rate(llm_gateway_retries_total[{WINDOW}])) or vector(0)"),
            Prom("fallbacks", f"sum(rate(llm_gateway_fallbacks_total[{WINDOW}])) or vector(0)"),
        ],
        width=8,
    )


def _front() -> Iterator[Panel]:
    gateways = 'proxy="gateways"'
    yield Panel(
        title="Front: gateways and sessions",
        description="Gateways that HAProxy knows to be well, and requests that it passes on now.",
        unit="short",
        queries=[
            Prom("gateways", f"sum(haproxy_backend_active_servers{{{gateways}}})"),
            Prom("requests now", f"sum(haproxy_backend_current_sessions{{{gateways}}})"),
            Prom("in its queue", f"sum(haproxy_backend_current_queue{{{gateways}}})"),
        ],
        width=12,
        quiet=NO_FRONT,
    )
    yield Panel(
        title="Front: answers by status",
        description=(
            "What passed the front, its own refusals too. 5xx here and none in the gateways: the "
            "front reached nobody."
        ),
        unit="reqps",
        queries=[
            Prom(
                "{{code}}",
                "sum by (code) (rate(haproxy_backend_http_responses_total"
                f"{{{gateways}}}[{WINDOW}]))",
            )
        ],
        width=12,
        quiet=NO_FRONT,
    )


def _machine() -> Iterator[Panel]:
    yield Panel(
        title="Lag of the event loops",
        description=(
            "How late a gateway turns to what is due. Above some milliseconds it has too much to "
            "do: more workers, or more gateways."
        ),
        unit="s",
        queries=[
            Prom(
                "p99 of {{instance}}",
                quantile(99, "llm_gateway_event_loop_lag_seconds_bucket", "instance"),
            )
        ],
        width=8,
    )
    yield Panel(
        title="Memory of the gateways",
        description="Of all processes of a gateway together.",
        unit="bytes",
        queries=[Prom("{{instance}}", "sum by (instance) (llm_gateway_resident_memory_bytes)")],
        width=8,
    )
    yield Panel(
        title="GPUs",
        description=(
            "How busy each GPU is, if dcgm-exporter runs (profile dcgm). 0 % while requests are "
            "worked on: the engine is on the CPU."
        ),
        unit="percent",
        queries=[Prom("GPU {{gpu}}", "DCGM_FI_DEV_GPU_UTIL")],
        width=8,
        most=100,
        quiet="no GPU is watched",
    )
