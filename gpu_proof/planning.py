"""How engine and gateway are started: as `make start` would, by the planner's own lines. Pure."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from api_server.errors import SetupError

MODEL_ID = "proof"
MORE_WORDS = ("--log-verbosity", "4")
"""Only then the log tells which layers are on the GPU; some thirty lines a request, no more."""


def engine_config(shipped: str, slots: int) -> str:
    """The shipped file for llama.cpp with a number of slots: on a small machine the proof wants
    more than `auto` gives.
    """
    content = yaml.safe_load(shipped)
    content["batching"]["max_batch_size"] = slots
    return yaml.safe_dump(content)


def plan_command(
    python: str, config: Path, model: Path, gpu_memory_mib: int | None, host_memory_mib: int
) -> list[str]:
    """`python -m api_server plan` for this model; without a GPU's memory, for the CPU."""
    device = ["--device", "cpu"]
    if gpu_memory_mib is not None:
        device = ["--device", "gpu", "--gpu-memory-mib", str(gpu_memory_mib)]
    return [
        *(python, "-m", "api_server", "plan", "--config", str(config)),
        *device,
        *("--host-memory-mib", str(host_memory_mib), "--model-name", MODEL_ID),
        *("--models-dir", str(model.parent), "--model-file", model.name),
    ]


def parse_lines(text: str) -> dict[str, str]:
    """The planner's KEY=VALUE lines. Raises SetupError when those of an engine are missing."""
    pairs = [line.partition("=") for line in text.splitlines() if "=" in line]
    values = {name: value for name, _, value in pairs}
    for name in ("LLAMA_CPP_FLAGS", "ENGINE_SLOTS", "ENGINE_CONTEXT_TOKENS"):
        if name not in values:
            raise SetupError(f"the plan names no {name}: {text[:300]!r}")
    return values


def engine_command(server: Path, model: Path, port: int, values: Mapping[str, str]) -> list[str]:
    """llama-server with the planned flags, as the compose file starts it, and a longer log."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    name = ["--model", str(model), "--alias", MODEL_ID]
    return [str(server), *name, *address, *MORE_WORDS, *values["LLAMA_CPP_FLAGS"].split()]


def gateway_variables(values: Mapping[str, str], engine_url: str, config: Path) -> dict[str, str]:
    """What the compose file gives the gateway."""
    planned = ("ENGINE", "ENGINE_SLOTS", "ENGINE_CONTEXT_TOKENS")
    return {name: values[name] for name in planned} | {
        "ENGINE_URLS": engine_url,
        "ENGINE_CONFIG": str(config),
        "MODEL_NAME": MODEL_ID,
        "ENVIRONMENT": "development",
        "AUTH": "off",
    }
