"""Writes the engines' flags, and refuses what they cannot honour. Pure functions.

Every key of the engine's file is a flag here, or the gateway's, or an error: `KEYS` says which.
"""

import string
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from api_server.errors import ConfigurationError
from api_server.planning.max_sizing import MaxShape
from api_server.planning.sizing import CONTEXT_STEP, Shape
from api_server.settings.engine_file import EngineConfig

Device = Literal["gpu", "cpu"]
GATEWAY = "the gateway"
KEYS: dict[str, dict[str, str]] = {
    "batching.max_batch_size": {"llama-cpp": "--parallel", "max": "--max-batch-size"},
    "batching.max_wait_time_ms": {"llama-cpp": "0 only", "max": "0 only"},
    "batching.timeout_ms": {"llama-cpp": GATEWAY, "max": GATEWAY},
    "inference.max_tokens": {"llama-cpp": GATEWAY, "max": GATEWAY},
    "inference.temperature": {"llama-cpp": GATEWAY, "max": GATEWAY},
    "inference.context_length": {"llama-cpp": "--ctx-size", "max": "--max-length"},
    "memory.kv_cache_type": {"llama-cpp": "--cache-type-k, --cache-type-v", "max": "auto only"},
    "memory.prompt_cache_mib": {"llama-cpp": "--cache-ram", "max": "auto or 0 only"},
}
"""What becomes of each key, for each engine."""

MAX_GGUF_ON_CPU = {"q4_k_m": "q4_k", "q4_0": "q4_0", "q6_k": "q6_k", "f32": "float32"}
"""What stands in a GGUF's name, and what MAX calls it."""

MAX_GGUF_ON_GPU = {"bf16": "bfloat16", "f32": "bfloat16"}
MODELS = PurePosixPath("/models")
"""Where an engine sees the models."""

PLAIN = frozenset(string.ascii_letters + string.digits + "._-/")


@dataclass(frozen=True)
class LlamaCppPlan:
    """One llama-server. threads: on the CPU, else None."""

    shape: Shape
    prompt_cache_mib: int
    threads: int | None = None


@dataclass(frozen=True)
class MaxPlan:
    """One MAX. `model` and `tokenizer_folder` are names in the folder of models.

    tokenizer_folder: config.json and tokenizer of a GGUF file; None for a whole folder.
    """

    shape: MaxShape
    device: Device
    model: str
    served_name: str
    tokenizer_folder: str | None = None


def check_llama_cpp(config: EngineConfig) -> None:
    """Raises `ConfigurationError` for what llama.cpp cannot honour."""
    if config.batching.max_wait_time_ms:
        raise ConfigurationError(
            "batching.max_wait_time_ms: llama.cpp knows no window to fill a batch in: a request "
            "joins the running batch at its next token. Set 0."
        )
    context = config.inference.context_length
    if context != "auto" and context % CONTEXT_STEP:
        below = context // CONTEXT_STEP * CONTEXT_STEP
        raise ConfigurationError(
            f"inference.context_length: {context} would be rounded by llama.cpp, to a multiple of "
            f"{CONTEXT_STEP}. Set {below} or {below + CONTEXT_STEP}."
        )


def check_max(config: EngineConfig) -> None:
    """Raises `ConfigurationError` for what MAX cannot honour."""
    if config.batching.max_wait_time_ms:
        raise ConfigurationError(
            "batching.max_wait_time_ms: MAX has no window to fill a batch in: a request joins the "
            "running batch at its next token (its flag --ce-delay-ms is read by nothing). Set 0."
        )
    if config.memory.kv_cache_type != "auto":
        raise ConfigurationError(
            f"memory.kv_cache_type: MAX does not know {config.memory.kv_cache_type}; it keeps a "
            "context as its weights demand. Set auto."
        )
    if config.memory.prompt_cache_mib not in {"auto", 0}:
        raise ConfigurationError(
            "memory.prompt_cache_mib: MAX keeps prompts in the GPU's memory, beside the running "
            "requests, and has no number for it. Remove the key."
        )


def llama_cpp_flags(plan: LlamaCppPlan) -> list[str]:
    """All but model, name and address, which stand in docker-compose.yaml.

    `--ctx-size` is the total over all slots. Tools that run programs are never switched on.
    """
    kv_type = plan.shape.kv_type
    on_device = ["-ngl", "all"] if plan.threads is None else ["--threads", str(plan.threads)]
    return [
        *on_device,
        *("-fit", "off", "-fa", "on"),
        *("--parallel", str(plan.shape.slots), "--ctx-size", str(plan.shape.tokens)),
        *("--cache-type-k", kv_type, "--cache-type-v", kv_type),
        *("--cache-ram", str(plan.prompt_cache_mib)),
        *("--metrics", "--slots", "--jinja", "--no-webui"),
    ]


def max_flags(plan: MaxPlan) -> list[str]:
    """All but the address, which stands in docker-compose.yaml.

    Raises `ConfigurationError` for a form of weights that MAX does not run on that device.
    """
    if is_gguf(plan.model):
        encoding = max_encoding(plan.model, plan.device)
        if plan.tokenizer_folder is None:
            raise ConfigurationError(
                f"{plan.model}: MAX takes a GGUF file only with config.json and the tokenizer in a "
                "folder beside it. Name that folder, or a model in safetensors."
            )
        model = ["--model", str(MODELS / plan.tokenizer_folder)]
        model += ["--weight-path", str(MODELS / plan.model), "--quantization-encoding", encoding]
    else:
        model = ["--model", str(MODELS / plan.model)]
        model += ["--quantization-encoding", "float32"] if plan.device == "cpu" else []
    return [
        *model,
        *("--served-model-name", plan.served_name),
        *("--devices", "gpu:0" if plan.device == "gpu" else "cpu"),
        *("--max-length", str(plan.shape.context_tokens)),
        *("--max-batch-size", str(plan.shape.slots)),
        "--enable-penalties",
        *(["--enable-structured-output"] if plan.device == "gpu" else []),  # refused on the CPU
    ]


def max_encoding(file: str, device: Device) -> str:
    """MAX's word for the form of a GGUF file. Raises `ConfigurationError` where it runs it not."""
    name = PurePosixPath(file).name.lower()
    on_cpu, on_gpu = (
        next((encoding for mark, encoding in known.items() if mark in name), None)
        for known in (MAX_GGUF_ON_CPU, MAX_GGUF_ON_GPU)
    )
    encoding = on_gpu if device == "gpu" else on_cpu
    if encoding is not None:
        return encoding
    if device == "gpu" and on_cpu is not None:
        raise ConfigurationError(
            f"{file}: MAX runs {on_cpu} on the CPU only, and would leave the GPU idle without a "
            "word. Use ENGINE=llama-cpp for this file, or a model in bfloat16 safetensors for MAX."
        )
    if on_gpu is not None:
        raise ConfigurationError(
            f"{file}: MAX runs {on_gpu} on a GPU only. Use ENGINE=llama-cpp, or a Q4_K_M file."
        )
    raise ConfigurationError(
        f"{file}: MAX knows of GGUF files those in Q4_K_M, Q4_0, Q6_K and F32 on the CPU, and BF16 "
        "and F32 on a GPU. Use ENGINE=llama-cpp for this one."
    )


def is_gguf(model: str) -> bool:
    """Whether a model is a file in llama.cpp's format, and not a folder."""
    return model.lower().endswith(".gguf")


def check_name(option: str, name: str) -> str:
    """A name that stands in flags and `.env` as it is; raises `ConfigurationError`."""
    parts = PurePosixPath(name).parts
    if not name or not set(name) <= PLAIN or name[0] in "-/" or ".." in parts:
        raise ConfigurationError(
            f"{option}: {name!r} must be letters, digits and ._-/, and begin with no - or /."
        )
    return name
