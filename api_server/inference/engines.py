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
    listed there as harmless. `renamed_fields` go up under the name that the engine knows. A seed
    that is not among `seeds` is mapped to one that is (None: all are understood). Content parts
    that are not among `parts` are a 400 (None: the engine judges them). Where `prompt_is_one_text`,
    prompts of token ids and several prompts are a 400. `count_path` counts a chat's tokens without
    answering it, and under `dimensions_path` it tells its slots or its context (inference/
    dimensions). Where it `is_probed` the health of several replicas is asked for every few
    seconds.

    `has_openai_details` is false where the gateway has to translate: `tool_choice` cannot name a
    function or forbid them all, log probabilities have a shape of their own, the events of one
    stream differ in `created`. `has_clean_answers` is false where events leave out what is null,
    carry empty log probabilities, or show a stop sequence and what follows it: then each event is
    put right (services/clean_events), and plain answers are made from streams too.

    Models in this process have no `health_path`, and what they do ends with the client's task.

    `handler` is the kind of handler that serves it, `most_slots` what it can do at once at most.
    `own_parameters` are its names of `top_k` and `repetition_penalty`, which OpenAI does not have;
    what is not there cannot be asked for.
    """

    name: str
    health_path: str
    notices_departed_clients: bool = False
    refused_fields: frozenset[str] = frozenset()
    unsupported: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    seeds: range | None = None
    parts: frozenset[str] | None = None
    prompt_is_one_text: bool = False
    count_path: str | None = None
    dimensions_path: str | None = None
    has_openai_details: bool = True
    has_clean_answers: bool = True
    is_probed: bool = True
    handler: HandlerKind = "http"
    most_slots: int | None = None
    own_parameters: Mapping[str, str] = field(default_factory=dict)
    running_usage: RunningUsage | None = None

    @property
    def is_in_process(self) -> bool:
        """Whether it is a library in this process; all about HTTP is nothing to it then."""
        return self.handler != "http"

    @property
    def gets_plain_requests(self) -> bool:
        """Whether a plain request goes up as one, and its answer passes as it is."""
        return self.notices_departed_clients and self.has_clean_answers


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
    seeds=range(2**32 - 1),  # 32 bits there, the highest of which means chance
    count_path="/v1/chat/completions/input_tokens",
    dimensions_path="/props",
    has_openai_details=False,
    own_parameters={"top_k": "top_k", "repetition_penalty": "repeat_penalty"},
    running_usage=RunningUsage(
        ask={"timings_per_token": True},
        place="timings",
        prompt=("cache_n", "prompt_n"),
        generated=("predicted_n",),
    ),
)
# MAX 26.7.0, each parameter tried on a CPU (tests/max). Its schema takes all fields of OpenAI's
# reference and ignores many; those are refused here. Fields that it does not know are a 400 of its.
MAX_SERVE = Engine(
    name="max-serve",
    health_path="/health",
    notices_departed_clients=True,  # 0.5 s after either kind of client left, it had stopped
    # A prompt of token ids past our checks, the insides of a cluster, a template of the client's.
    refused_fields=frozenset(
        {"chat_template_kwargs", "dkv_cache_hint", "prompt_tokens", "target_endpoint"}
    ),
    unsupported={
        "audio": (),
        "best_of": (1,),
        "echo": (False,),  # together with logprobs it ends the engine
        "function_call": (),
        "functions": (),
        "logit_bias": ({},),
        "logprobs": (False, True),  # those of text completions come without their tokens
        "modalities": (["text"],),
        "moderation": (),
        "n": (1,),
        "parallel_tool_calls": (True,),
        "prediction": (),
        "reasoning_effort": ("none",),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("auto", "none"),  # for most models it forces none
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    renamed_fields={"max_completion_tokens": "max_tokens"},  # unknown in text completions
    # Its own defaults are those of the model's generation_config.json: always greedy for some.
    sampling={
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    },
    seeds=range(1, 2**63),  # 0 means chance
    parts=frozenset({"text", "image_url", "video_url"}),  # it drops all others in silence
    prompt_is_one_text=True,  # an id outside the vocabulary ends the engine; no stream of several
    has_openai_details=False,
    has_clean_answers=False,
    own_parameters={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
)
# Read in vLLM's documentation and sources (0.33), not run.
VLLM = Engine(
    name="vllm",
    health_path="/health",
    dimensions_path="/v1/models",
    notices_departed_clients=True,
    # What reaches past the gateway: order, other requests, code and templates of the client's.
    refused_fields=frozenset(
        {
            "chat_template",
            "ec_transfer_params",
            "kv_transfer_params",
            "media_io_kwargs",
            "mm_processor_kwargs",
            "priority",
            "prompt_embeds",
            "request_id",
            "session_id",
            "use_beam_search",
            "vllm_xargs",
        }
    ),
    # Not in its schemas, and what is not there it ignores.
    unsupported={
        "audio": (),
        "best_of": (1,),
        "function_call": (),
        "functions": (),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    # Else the model's generation_config.json decides.
    sampling={
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    },
    own_parameters={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
)
# Read in Together.ai's published API description and clients, not run.
TOGETHER = Engine(
    name="together",
    health_path="/v1/models",
    # Not in its description. Its logprobs are a number in chats too, and have a shape of their own.
    unsupported={
        "audio": (),
        "best_of": (1,),
        "functions": (),
        "logprobs": (False,),
        "modalities": (["text"],),
        "moderation": (),
        "parallel_tool_calls": (True,),
        "prediction": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "top_logprobs": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    renamed_fields={"max_completion_tokens": "max_tokens"},
    sampling={"temperature": 1.0, "top_p": 1.0},
    own_parameters={"top_k": "top_k", "repetition_penalty": "repetition_penalty"},
    is_probed=False,
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
    most_slots=1,  # not made for threads
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
        *(LLAMA_SERVER, MAX_SERVE, VLLM, OPENAI, TOGETHER, OPENAI_COMPATIBLE, GATEWAY),
        *(TRANSFORMERS, LLAMA_CPP, CUSTOM),
    )
}
