"""What a run is: everything that its result needs so that it can be made again. No secret."""

import itertools
from collections.abc import Iterator

from msgspec import Struct

from load_tests.arrivals import Kind, Shape, arrivals, mixed
from load_tests.scenarios.ask import Cache, World


class Configuration(Struct, frozen=True, kw_only=True):
    """`rate` (open loop, requests a second) or `concurrency` (closed loop, users), not both.

    `scenarios` has the weight of each. The run ends after `requests`, after `seconds`, or after
    what comes first. `most_in_flight` is a bound on an open loop, above which it is not valid.
    """

    host: str
    scenarios: dict[str, float]
    requests: int | None = None
    seconds: float | None = None
    rate: float | None = None
    concurrency: int | None = None
    shape: Kind = "constant"
    seed: int = 1
    salt: str = "0"
    retries: int = 0
    """How often a refused request comes again, each time when its Retry-After says."""
    processes: int = 1
    most_in_flight: int = 1000
    most_lag_seconds: float = 0.05
    idle_seconds: float = 60.0
    total_seconds: float = 120.0
    model: str = ""
    embedding_model: str = ""
    cache: Cache = "cold"
    scale: float = 1.0
    tokens_per_word: float = 1.3
    context_tokens: int = 2048
    takes_ignore_eos: bool = False
    needs_usage: bool = True

    def __post_init__(self) -> None:
        """Raises `ValueError` for what cannot be run."""
        if (self.rate is None) == (self.concurrency is None):
            raise ValueError("name either a rate (open loop) or a concurrency (closed loop)")
        if self.requests is None and self.seconds is None:
            raise ValueError("name a number of requests or a duration")
        if self.requests is not None and self.requests < 1:
            raise ValueError("at least one request")
        if not self.scenarios or min(self.scenarios.values()) <= 0:
            raise ValueError("each scenario needs a weight above 0")
        if self.processes < 1 or self.most_in_flight < 1 or self.retries < 0:
            raise ValueError("at least one process, one request in flight, no fewer retries than 0")
        if self.context_tokens < 1:
            raise ValueError("a context has at least one token")
        if self.processes > (self.concurrency or self.processes):
            raise ValueError("more processes than users")
        self.level()

    @property
    def is_open(self) -> bool:
        return self.rate is not None

    def level(self) -> Shape:
        """Requests a second, or users, over the run."""
        level = self.rate if self.rate is not None else self.concurrency
        return Shape(self.shape, float(level or 0), self.seconds)

    def world(self) -> World:
        return World(
            model=self.model,
            embedding_model=self.embedding_model,
            seed=self.seed,
            salt=self.salt,
            tokens_per_word=self.tokens_per_word,
            context_tokens=self.context_tokens,
            scale=self.scale,
            cache=self.cache,
            takes_ignore_eos=self.takes_ignore_eos,
        )


Planned = tuple[int, float | None, str, int]
"""A request's number in the run, when to send it (None: when a user is free), its scenario, and
its number among those of that scenario.
"""


def planned(configuration: Configuration, process: int = 0) -> Iterator[Planned]:
    """What one of the processes sends, in order: together they send each request once."""
    if configuration.is_open:
        times: Iterator[float | None] = arrivals(configuration.level(), configuration.seed)
    else:
        times = itertools.repeat(None)
    order = mixed(configuration.scenarios, configuration.seed)
    numbers = itertools.islice(itertools.count(), configuration.requests)
    every = zip(numbers, times, order, strict=False)
    for number, intended, (scenario, which) in every:
        if number % configuration.processes == process:
            yield number, intended, scenario, which
