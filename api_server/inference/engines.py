"""The engine table: what differs between the programs that serve models, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HandlerKind = Literal["http", "transformers", "llama-cpp", "custom"]


@dataclass(frozen=True)
class RunningUsage:
    """How an engine tells its counts in each event, for answers that are not read to their end.

    `ask` are request fields that make it do so; `place` is the object in an event, in which the
    sums of `prompt` and of `generated` are tokens.
    """

    ask: Mapping[str, Any]
    place: str
    prompt: tuple[str, ...]
    generated: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """One kind of engine.

    `health_path` answers 200 only when the model is loaded. Only an engine that
    `notices_departed_clients` gets plain requests; from others a plain answer is asked for as a
    stream, since they would go on working for a client that left. `sampling` makes the engine's own
    defaults those of OpenAI; a model's entry and then the request override it. A request with one
    of `refused_fields` is a 400, and so is one with a field of `unsupported` unless its value is
    listed there as harmless. `renamed_fields` go up under the name that the engine knows.
    `count_path` counts a chat's tokens without answering it. `has_openai_details` is false where
    the gateway has to translate: `tool_choice` cannot name a function or forbid them all, log
    probabilities have a shape of their own, the events of one stream differ in `created`. Where it
    `is_probed` the health of several replicas is asked for every few seconds.

    Models in this process have no `health_path`, and what they do ends with the client's task.

    `handler` is the kind of handler that serves it. `own_parameters` are its names of `top_k` and
    `repetition_penalty`, which OpenAI does not have; what is not there cannot be asked for.
    """

    name: str
    health_path: str
    notices_departed_clients: bool = False
    refused_fields: frozenset[str] = frozenset()
    unsupported: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    count_path: str | None = None
    has_openai_details: bool = True
    is_probed: bool = True
    handler: HandlerKind = "http"
    own_parameters: Mapping[str, str] = field(default_factory=dict)
    running_usage: RunningUsage | None = None

    @property
    def is_in_process(self) -> bool:
        """Whether it is a library in this process; all about HTTP is nothing to it then."""
        return self.handler != "http"


LLAMA_SERVER = Engine(
    name="llama-server",
    health_path="/health",
    # What would reach past the gateway: its limits, other requests' slots, the engine's insides.
    refused_fields=frozenset(
        {"n_predict", "n_cmpl", "id_slot", "lora", "verbose", "response_fields"}
    ),
    unsupported={
        "audio": (),
        "best_of": (1,),
        "echo": (False,),
        "function_call": (),
        "functions": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    renamed_fields={"max_completion_tokens": "max_tokens"},
    sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
    count_path="/v1/chat/completions/input_tokens",
    has_openai_details=False,
    own_parameters={"top_k": "top_k", "repetition_penalty": "repeat_penalty"},
    running_usage=RunningUsage(
        ask={"timings_per_token": True},
        place="timings",
        prompt=("cache_n", "prompt_n"),
        generated=("predicted_n",),
    ),
)
OPENAI = Engine(name="openai", health_path="/v1/models", is_probed=False)
# Of a service that nobody here knows, only this is sure: a plain request gets a plain answer.
OPENAI_COMPATIBLE = Engine(
    name="openai-compatible",
    health_path="/health",
    notices_departed_clients=True,
    renamed_fields={"max_completion_tokens": "max_tokens"},
)
GATEWAY = Engine(
    name="llm-serving-stack",
    health_path="/health/ready",
    notices_departed_clients=True,
    # Engines agree on this name; on that of a repetition penalty they do not.
    own_parameters={"top_k": "top_k"},
)

# What OpenAI's API has and a model in this process cannot do. Tools and schemas need a parser of
# the model's text; a seed would have to be one request's alone.
_NOT_IN_PROCESS: Mapping[str, tuple[object, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "seed": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
TRANSFORMERS = Engine(
    name="transformers",
    health_path="",
    notices_departed_clients=True,
    unsupported=_NOT_IN_PROCESS,
    sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0},
    handler="transformers",
)
LLAMA_CPP = Engine(
    name="llama-cpp",
    health_path="",
    notices_departed_clients=True,
    unsupported={**_NOT_IN_PROCESS, "num_beams": (1,)},
    sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0},
    handler="llama-cpp",
)
CUSTOM = Engine(
    name="custom",
    health_path="",
    notices_departed_clients=True,
    unsupported=_NOT_IN_PROCESS,
    handler="custom",
)

ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        *(LLAMA_SERVER, OPENAI, OPENAI_COMPATIBLE, GATEWAY),
        *(TRANSFORMERS, LLAMA_CPP, CUSTOM),
    )
}
