"""Where the time of requests went: parts that add up to what the client waited. Pure."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from load_tests.samples import Sample

PARTS = (
    "load tester",
    "queue",
    "gateway",
    "engine, waiting",
    "prefill",
    "decode",
    "network, other",
)
"""load tester: from the intended time to the sending. queue: of the gateway, for an engine's place.
engine, waiting: in the engine, for a slot and beside other work. network, other: what nobody named.
"""


class Split(Struct, frozen=True):
    """Mean seconds of each part, in the order of `PARTS`, over so many answers."""

    scenario: str
    count: int
    seconds: list[float]


def split(sample: Sample) -> list[float]:
    """The parts of one answer; they add up to its latency.

    `Server-Timing` is sent with the first byte: of a stream it tells of the time until then, of a
    plain answer of all. Clocks of three programs do not agree to the microsecond: less than nothing
    is nothing, and the last part takes what is left.
    """
    late = max(0.0, sample.sent - sample.intended)
    queue, gateway = sample.stages.get("queue", 0.0), sample.stages.get("gateway", 0.0)
    prefill, decode = sample.prompt_seconds or 0.0, sample.decode_seconds or 0.0
    in_engine = sample.stages.get("engine", 0.0)
    known = prefill if sample.first_token is not None else prefill + decode
    waiting = max(0.0, in_engine - known) if known else 0.0
    if not known:  # an engine that tells nothing of itself
        prefill = in_engine
        if sample.first_token is not None:
            decode = max(0.0, sample.ended - sample.first_token)
    parts = [late, queue, gateway, waiting, prefill, decode]
    rest = sample.latency - sum(parts)
    if rest < 0 < decode:
        parts[5] = max(0.0, decode + rest)
    return [*parts, max(0.0, sample.latency - sum(parts))]


def splits(samples: Iterable[Sample]) -> list[Split]:
    """By scenario, of answers that went well and say where their time went."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.outcome == "ok" and sample.stages:
            by_name.setdefault(sample.scenario, []).append(sample)
    return [Split(name, len(found), _mean(found)) for name, found in by_name.items()]


def _mean(samples: Sequence[Sample]) -> list[float]:
    parts = [split(sample) for sample in samples]
    return [sum(column) / len(parts) for column in zip(*parts, strict=True)]
