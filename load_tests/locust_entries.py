"""Puts a measured request into Locust's statistics: an entry for it, and for what it is made of.

`short` counts in Locust's totals; `short first token`, `short gap` (milliseconds) and
`short tokens` (a number, where Locust says milliseconds) stand beside it and leave them alone.
"""

from typing import Any

from load_tests.samples import Sample


class RequestError(Exception):
    """What Locust lists among the failures: the kind of a sample's error."""


def enter(environment: Any, sample: Sample) -> None:
    """Into the statistics of a `locust.env.Environment` that has a runner."""
    failure = sample.error if sample.outcome in ("error", "refused") else None
    environment.events.request.fire(
        request_type="POST",
        name=sample.scenario,
        response_time=1000 * sample.latency,
        response_length=0,
        exception=RequestError(failure) if failure else None,
        context={},
    )
    entries = environment.stats
    if sample.first_token is not None:
        after = 1000 * (sample.first_token - sample.intended)
        entries.get(f"{sample.scenario} first token", "ms").log(after, 0)
    if sample.gap_mean is not None:
        entries.get(f"{sample.scenario} gap", "ms").log(1000 * sample.gap_mean, 0)
    if sample.completion_tokens:
        entries.get(f"{sample.scenario} tokens", "tokens").log(sample.completion_tokens, 0)
