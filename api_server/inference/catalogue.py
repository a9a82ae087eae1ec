"""The models that can be named, and where each is served. Plain values, no connections."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from api_server.errors import ConfigurationError, ModelNotFoundError
from api_server.inference import addresses
from api_server.inference.dimensions import Dimensions
from api_server.inference.engines import Engine


@dataclass(frozen=True)
class Timeouts:
    """How long a request waits in each phase, in seconds. None of them can be switched off."""

    queue_seconds: float = 10.0
    connect_seconds: float = 2.0
    first_token_seconds: float = 60.0
    idle_seconds: float = 30.0
    total_seconds: float = 600.0


@dataclass(frozen=True)
class Retries:
    """How a request that got no answer is tried again, before the first byte of one.

    Pauses are doubled from `first_delay_seconds` to `max_delay_seconds`, with full jitter. A
    request that an engine has seen is sent again at most `resends` times, and all of them together
    add no more than the share `budget` to a model's traffic.
    """

    first_delay_seconds: float = 0.1
    max_delay_seconds: float = 2.0
    resends: int = 1
    budget: float = 0.2


@dataclass(frozen=True)
class Balancing:
    """How one of several replicas is chosen, and when one is left out.

    `failures` in a row open a replica's breaker for `open_seconds`, doubled at each failed trial
    up to `max_open_seconds`; one that comes back gets its full share after `slow_start_seconds`. A
    conversation stays with its replica (`prefix_affinity`) as long as that has no more than
    `affinity_load` times the mean load.
    """

    prefix_affinity: bool = True
    affinity_load: float = 2.0
    health_interval_seconds: float = 2.0
    slow_start_seconds: float = 10.0
    failures: int = 3
    open_seconds: float = 1.0
    max_open_seconds: float = 30.0


@dataclass(frozen=True)
class Model:
    """One entry of the catalogue.

    Over HTTP: `replicas` are base URLs of engines without `/v1`, `name_at_engine` is what they call
    the model (None: its id), `api_key` is their bearer token. In process: `path` is where the
    weights are (a GGUF file or a Hugging Face folder), `context_tokens` how much context to
    allocate (None: what the model was trained on), `load` when, and `idle_seconds` after how long
    without a request it is unloaded (None: never). `handler` names a class of one's own by import
    path, `package.module:Class`; `options` are for it.

    `slots` is what one replica does at the same time; one that is not found with the `expected`
    slots and context gets nothing. `max_input_tokens` and `max_output_tokens`
    are limits of ours below the engine's own; `context_overflow` says what becomes of a chat that
    does not fit. `fallbacks` are the ids of models that answer when this one cannot. `defaults` are
    request fields that apply where a client sends none.
    """

    id: str
    engine: Engine
    replicas: tuple[str, ...] = ()
    name_at_engine: str | None = None
    api_key: str | None = field(default=None, repr=False)
    path: Path | None = None
    context_tokens: int | None = None
    load: Literal["at_start", "on_demand"] = "at_start"
    idle_seconds: float | None = None
    handler: str | None = None
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    location: Literal["local", "cloud"] = "local"
    serves: Literal["text", "embeddings"] = "text"
    slots: int = 4
    expected: Dimensions | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    context_overflow: Literal["error", "drop_oldest"] = "error"
    fallbacks: tuple[str, ...] = ()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    balancing: Balancing = Balancing()
    defaults: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    created: int = 0
    owned_by: str = "llm-serving-stack"

    def __post_init__(self) -> None:
        """Raises `ConfigurationError`; shows neither keys nor URLs, which may hold passwords."""
        for number, url in enumerate(self.replicas):
            if fault := addresses.fault_of(url):
                raise ConfigurationError(f"models.{self.id}.replicas[{number}]: {fault}.")
        if self.api_key is not None and not re.fullmatch(r"[\x21-\x7e]*", self.api_key):
            raise ConfigurationError(
                f"models.{self.id}.api_key: must be printable ASCII without spaces."
            )

    @property
    def is_in_process(self) -> bool:
        """Whether this process itself runs the model, instead of an engine behind HTTP."""
        return not self.replicas


class Catalogue:
    """Looks models up by the name a client sent."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.id: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def find(self, name: str) -> Model:
        """The model of that name. Raises `ModelNotFoundError`, which lists the known names."""
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise ModelNotFoundError(
                f"The model '{name[:100]}' does not exist here. Known models: {known}.",
                param="model",
            )
        return model
