"""The models clients can name, and where each is served. Plain values, no connections."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from api_server.errors import ModelNotFoundError
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
class Model:
    """One entry of the catalogue.

    `replicas` are base URLs of engines without `/v1`; `slots` is what the engine does at the same
    time; `context_overflow` says what becomes of a chat that does not fit; `defaults` are request
    fields that apply where a client sends none; `api_key` is the engine's bearer token.
    """

    id: str
    engine: Engine
    replicas: tuple[str, ...]
    serves: Literal["text", "embeddings"] = "text"
    slots: int = 4
    context_overflow: Literal["error", "drop_oldest"] = "error"
    timeouts: Timeouts = Timeouts()
    defaults: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    created: int = 0
    owned_by: str = "llm-serving-stack"


class Catalogue:
    """Looks models up by the name a client sent."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.id: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

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
