"""The report for people. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_proof.batching import LEAST_SHARE
from gpu_proof.figures import Row, Verdict
from gpu_proof.loads import ALONE, FULL, KNEE

NOTE = """\
The model has the shapes and the types of a Llama 3 8B in Q4_K_M, and random weights: what it says
is noise, how fast it says it is not. Its tokenizer is made by a rule; lengths are in its tokens.
Latency is from the moment a request should have been sent to its last byte. `engine` is until its
first event, `gateway` the gateway's own time until then, `rest` what no stage explains: events on
their way through the gateway, sockets, the load tester on the same machine. What the gateway costs
lies between its own stage and both together."""

SMALL_NOTE = "**Not a proof**: this ran on the CPU with a small shape, to try the steps."


def report(
    steps: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Row],
    verdicts: Sequence[Verdict],
    hardware: Mapping[str, Any],
    missing: Sequence[str],
) -> str:
    """steps: what was found, by step; hardware: as the load tester saw it; missing: loads that
    were not run, or given up.
    """
    stack = steps["stack"]
    parts = ["# Speed on this machine", ""]
    if stack["device"] == "cpu":
        parts += [SMALL_NOTE, ""]
    parts += [NOTE, "", *_machine(steps, hardware), ""]
    parts += ["## Batching", "", *_batching(rows, stack["slots"]), ""]
    parts += ["## Loads", "", *_loads(rows), ""]
    if missing:
        parts += [f"**Without a result**: {', '.join(missing)}.", ""]
    parts += [*_stages(rows), ""]
    parts += ["## The promise (configs/slo.yaml)", "", *_verdicts(verdicts), ""]
    parts += ["## The knee", "", *_knee(steps)]
    return "\n".join(parts) + "\n"


def _machine(steps: Mapping[str, Mapping[str, Any]], hardware: Mapping[str, Any]) -> Iterable[str]:
    stack, build, model = steps["stack"], steps["build"], steps["model"]
    yield "| | |"
    yield "|---|---|"
    for gpu in stack["gpus"]:
        power = f", {gpu['watts']:.0f} W" if gpu["watts"] else ""
        memory = f"{gpu['memory_mib']} MiB, {gpu['used_mib']} used with the model loaded"
        yield f"| GPU | {gpu['name']}, {memory}{power} |"
        yield f"| driver, CUDA | {gpu['driver']}, {build.get('CUDA', 'unknown')} |"
    if stack["offloaded"]:
        yield f"| layers on the GPU | {stack['offloaded'][0]} of {stack['offloaded'][1]} |"
    memory_gib = hardware["memory_bytes"] / 1024**3
    yield f"| machine | {hardware['cpu']}, {hardware['cores']} cores, {memory_gib:.0f} GiB |"
    yield f"| engine | llama.cpp of llama-cpp-python {build['llama-cpp-python']} |"
    yield f"| model | {model['file']}, {model['bytes'] / 1e6:.0f} MB |"
    yield f"| flags | `{stack['plan']['LLAMA_CPP_FLAGS']}` |"


def _batching(rows: Sequence[Row], slots: int) -> Iterable[str]:
    by_name = {row.name: row for row in rows}
    full, alone = by_name.get(FULL), by_name.get(ALONE)
    if full is None or alone is None:
        yield "Not measured."
        return
    is_full = "full" if full.busy_per_decode >= LEAST_SHARE * slots else "**not full**"
    yield (
        f"With {full.users} clients {full.busy_per_decode:.1f} of {slots} slots are busy per "
        f"decode: {is_full}. {full.tokens_per_second:.0f} tokens/s, with one client "
        f"{alone.tokens_per_second:.0f}: {_ratio(full, alone)} times as many."
    )


def _ratio(full: Row, alone: Row) -> str:
    if not alone.tokens_per_second:
        return "unknown"
    return f"{full.tokens_per_second / alone.tokens_per_second:.1f}"


def _loads(rows: Sequence[Row]) -> Iterable[str]:
    yield (
        "| load | requests | errors | refused | p50 ms | p95 ms | p99 ms | first token p50 ms | "
        "answers/s | tokens/s | busy slots |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        latency = row.latency or {}
        cells = [
            row.name + (" (**not valid**)" if row.invalid_because else ""),
            *map(str, (row.count, row.failed, row.refused)),
            *(_number(latency.get(each)) for each in ("p50", "p95", "p99")),
            _number(row.first_token_p50),
            f"{row.requests_per_second:.1f}",
            f"{row.tokens_per_second:.0f}",
            f"{row.busy_per_decode:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"
    for row in rows:
        for why in row.invalid_because:
            yield f"\n{row.name} does not count: {why}."


def _stages(rows: Sequence[Row]) -> Iterable[str]:
    yield "Where the time went, mean milliseconds, and the gateway's share of the latency:"
    yield ""
    yield "| load | total | queue | engine | decode | gateway | rest | gateway's share |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        names = ("total", "queue", "engine", "decode", "gateway", "rest")
        cells = [_number(row.stages.get(name), 2) for name in names]
        yield f"| {row.name} | {' | '.join(cells)} | {_share(row)} |"


def _share(row: Row) -> str:
    least, most = row.gateway_share, row.most_gateway_share
    return "" if least is None or most is None else f"{least:.2%} to {most:.1%}"


def _verdicts(verdicts: Sequence[Verdict]) -> Iterable[str]:
    if not verdicts:
        yield "No load was of the kind that is promised."
    for each in verdicts:
        said = "holds" if each.holds else f"**does not hold**: {'; '.join(each.broken)}"
        yield f"- {each.workload}, {each.load}: {said}"


def _knee(steps: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    said = steps.get(f"run {KNEE}", {}).get("said")
    if not said:
        yield "Not looked for."
        return
    yield from ("```", *said, "```")


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
