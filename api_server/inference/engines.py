"""The engine table: what differs between the programs that serve models, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Engine:
    """One kind of engine.

    `health_path` answers 200 only when the model is loaded. Only an engine that
    `notices_departed_clients` gets plain requests; from others a plain answer is asked for as a
    stream, since they would go on working for a client that left. `sampling` makes the engine's own
    defaults those of OpenAI; a model's entry and then the request override it. A request with one
    of `refused_fields` is a 400.
    """

    name: str
    health_path: str
    notices_departed_clients: bool = False
    refused_fields: frozenset[str] = frozenset()
    sampling: Mapping[str, float] = field(default_factory=dict)


LLAMA_SERVER = Engine(
    name="llama-server",
    health_path="/health",
    # What would reach past the gateway: its limits, other requests' slots, the engine's insides.
    refused_fields=frozenset({"n_predict", "id_slot", "lora", "verbose", "response_fields"}),
    sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
)
OPENAI = Engine(name="openai", health_path="/v1/models")
GATEWAY = Engine(
    name="llm-serving-stack", health_path="/health/ready", notices_departed_clients=True
)

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (LLAMA_SERVER, OPENAI, GATEWAY)}
