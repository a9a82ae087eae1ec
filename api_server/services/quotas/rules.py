"""The limits of an app as rules, each of which counts one thing. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from api_server.observability.metrics import LimitKind
from api_server.schemas.apps import App, Limits, RateLimit, parse_rate
from api_server.services.quotas.window import BUCKETS

MINUTE = 60
LONGEST_LIFE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Rule:
    """At most `limit` units in any `seconds` seconds, or at the same time if those are 0.

    `key` is where Redis counts them: made of the app's id and of what the operator wrote. It does
    not hold the limit, so that one that is changed goes on with what was used.
    """

    kind: LimitKind
    key: str
    limit: int
    seconds: int
    model: str | None = None

    @property
    def life_seconds(self) -> float:
        """For how long units that Redis granted may be used: short, for it is lost of each period.

        A hundredth, but not shorter than an answer of Redis may take as long as that is little.
        """
        if not self.seconds:
            return 0.0
        shortest = min(self.seconds / 60, 0.04)
        return min(max(self.seconds / 100, shortest), LONGEST_LIFE_SECONDS)

    @property
    def counts_seconds(self) -> float:
        """For how long a unit counts at the most after its use."""
        return self.seconds + self.life_seconds + self.seconds / BUCKETS

    @property
    def what(self) -> str:
        """The rule in a sentence's words."""
        of_model = f" of '{self.model}'" if self.model else ""
        if self.kind == "concurrent":
            return f"{self.limit} requests{of_model} at the same time"
        return f"{self.limit} {self.kind}{of_model} in {self.seconds} s"


def rules_of(app: App, model: str | None) -> Sequence[Rule]:
    """Those of the app itself, or those that it has for one model on top."""
    limits: Limits | None = app.policy
    if model is not None:
        limits = app.policy.limits_by_model.get(model)
    if limits is None:
        return ()
    rates = [parse_rate(text) for text in limits.rate_limits]
    return make_rules(app.id, model, rates, limits.tokens_per_minute, limits.concurrent_requests)


def make_rules(
    app_id: str,
    model: str | None,
    rates: Sequence[RateLimit],
    tokens_per_minute: int | None = None,
    concurrent_requests: int | None = None,
) -> list[Rule]:
    """Of two rates over the same period the lower one counts."""
    end = f":{model}" if model else ""
    lowest: dict[int, int] = {}
    for rate in rates:
        lowest[rate.seconds] = min(rate.requests, lowest.get(rate.seconds, rate.requests))
    rules = [
        Rule("requests", f"limits:{app_id}:requests:{seconds}{end}", requests, seconds, model)
        for seconds, requests in sorted(lowest.items())
    ]
    if tokens_per_minute is not None:
        key = f"limits:{app_id}:tokens:{MINUTE}{end}"
        rules.append(Rule("tokens", key, tokens_per_minute, MINUTE, model))
    if concurrent_requests is not None:
        key = f"limits:{app_id}:concurrent{end}"
        rules.append(Rule("concurrent", key, concurrent_requests, 0, model))
    return rules
