"""Reads `configs/llama-cpp-config.yaml` or `configs/max-serve-config.yaml`: how the engine that the
stack starts shall batch and answer. `planning/` turns it into the engine's flags, `models.py` into
the gateway's entry of its model.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from api_server.settings.values import Strict
from api_server.settings.yaml_file import load_yaml

Auto = Literal["auto"]


class Batching(Strict):
    """How many requests the engine works on at once, and for how long."""

    max_batch_size: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto", description="Requests in one batch; auto: 32, or what the memory carries."
    )
    max_wait_time_ms: int = Field(
        0, ge=0, description="A window to fill a batch. 0: requests join the running batch at once."
    )
    timeout_ms: int = Field(
        120_000, ge=1000, le=3_600_000, description="For a whole answer, without the queue."
    )


class Inference(Strict):
    """What answers are like."""

    max_tokens: int = Field(2048, ge=1, description="No answer is longer.")
    temperature: float = Field(0.7, ge=0, le=2, description="Where a request names none.")
    context_length: Annotated[int, Field(ge=256)] | Auto = Field(
        "auto", description="Tokens of one request and its answer; auto: what the memory carries."
    )


class Memory(Strict):
    """What the engine keeps in memory beside the model."""

    kv_cache_type: Literal["auto", "f16", "q8_0"] = Field(
        "auto", description="How exactly a context is kept; q8_0 takes half as much as f16."
    )
    prompt_cache_mib: Annotated[int, Field(ge=0)] | Auto = Field(
        "auto", description="Host memory for contexts that may be asked for again; auto: to 2048."
    )


class EngineConfig(Strict):
    """The file as a whole."""

    batching: Batching = Batching()
    inference: Inference = Inference()
    memory: Memory = Memory()


def load_engine_config(path: Path) -> EngineConfig:
    """Read and check such a file. Raises `ConfigurationError` with a line for each mistake."""
    return load_yaml(path, EngineConfig, " ENGINE_CONFIG names the file to use.")
