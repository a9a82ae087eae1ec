"""The result of a run: written as result.json with samples.jsonl beside it, and read again.

Times are seconds. Figures of latency are of requests that went well; others are counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from load_tests.configuration import Configuration
from load_tests.figures import Spread
from load_tests.samples import Sample

SCHEMA_VERSION = 1
RESULT = "result.json"
SAMPLES = "samples.jsonl"


class ResultError(ValueError):
    """The file is no result, or one of another version."""


class Row(Struct, frozen=True, kw_only=True):
    """One scenario, or all together.

    `count` = ok + refused + cancelled + the sum of `errors`, which is by kind, as `refusals` is.
    `retried` of them are further attempts, and of those `retried_refused` were refused once more.
    `gap` is of the mean gaps of answers, `longest_gap` of their longest. `first_token` and
    `latency` count from the intended time. Rates are over the run's seconds.
    """

    scenario: str
    count: int
    ok: int
    refused: int
    cancelled: int
    warm: int
    retried: int
    retried_refused: int
    errors: dict[str, int]
    refusals: dict[str, int]
    latency: Spread | None
    first_token: Spread | None
    gap: Spread | None
    longest_gap: Spread | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    requests_per_second: float
    tokens_per_second: float
    estimated: int = 0
    """Answers without usage, whose tokens are a count of their events."""
    stages: dict[str, Spread]
    """Server-Timing until the answer began, and the engine's own `prompt` and `decode`."""


class Second(Struct, frozen=True, kw_only=True):
    """What ended in one second of the run, beside what was due and sent in it."""

    second: int
    due: int
    sent: int
    ok: int
    errors: int
    refused: int
    cancelled: int
    in_flight: int
    """At its end."""
    tokens: int
    p50: float | None
    p95: float | None
    p99: float | None


class LoadProcess(Struct, frozen=True, kw_only=True):
    """One process of the load tester: what it took, and how late it was for its own business.

    `unsent` are arrivals that found `most_in_flight` requests already under way. `loop_delay` is
    how late its event loop woke up, again and again.
    """

    sent: int
    unsent: int
    cpu_share: float
    loop_delay: Spread | None
    locust: dict[str, int]
    """Requests by entry of Locust's statistics."""


class Hardware(Struct, frozen=True, kw_only=True):
    """The machine that the load came from; the gateway's own, too, when that is local."""

    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    system: str


class Result(Struct, frozen=True, kw_only=True):
    """A run as a whole. It counts only if `is_valid`: else the load tester itself was in the way.

    `seconds` is from the start to the last answer; `lag` is how much later than intended requests
    were sent. `left_out` are scenarios of `all` that this gateway cannot do, with the reason.
    """

    schema_version: int = SCHEMA_VERSION
    started_at: str
    seconds: float
    invalid_because: list[str]
    configuration: Configuration
    left_out: dict[str, str]
    probes: int
    """Requests to models before second 0, which the gateway counted too and this result did not."""
    versions: dict[str, str]
    hardware: Hardware
    total: Row
    scenarios: list[Row]
    timeline: list[Second]
    lag: Spread | None
    processes: list[LoadProcess]
    samples_file: str = SAMPLES

    @property
    def is_valid(self) -> bool:
        return not self.invalid_because


def write_result(result: Result, samples: Iterable[Sample], folder: Path) -> Path:
    """Both files into a folder, which is made; the path of result.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SAMPLES).open("wb") as file:
        file.writelines(sample_line(sample) for sample in samples)
    path = folder / RESULT
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def read_result(path: Path) -> Result:
    """A result.json, or the folder it is in. Raises `ResultError`."""
    file = path / RESULT if path.is_dir() else path
    try:
        raw = file.read_bytes()
        found = msgspec.json.decode(raw, type=_Version).schema_version
        if found != SCHEMA_VERSION:
            raise ResultError(
                f"{file} has version {found}, and this program reads {SCHEMA_VERSION}"
            )
        return msgspec.json.decode(raw, type=Result)
    except (OSError, msgspec.DecodeError) as exc:
        raise ResultError(f"{file}: {exc}") from exc


def read_samples(path: Path) -> Iterator[Sample]:
    """Those of a run: its samples.jsonl, or the folder it is in. Raises `ResultError`."""
    file = path / SAMPLES if path.is_dir() else path
    decode = msgspec.json.Decoder(Sample).decode
    try:
        with file.open("rb") as lines:
            for line in lines:
                yield decode(line)
    except (OSError, msgspec.DecodeError) as exc:
        raise ResultError(f"{file}: {exc}") from exc


class _Version(Struct):
    schema_version: int


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


_DEFAULTS = {field.name: _default(field) for field in fields(Sample)}


def sample_line(sample: Sample) -> bytes:
    """A line of JSON; what has its default value is left out, times are in microseconds' steps."""
    said = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, default in _DEFAULTS.items()
        if (value := getattr(sample, name)) != default
    }
    return msgspec.json.encode(said) + b"\n"
