"""From the engine's file, the model's size and the machine to flags and words for people. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from api_server.errors import ConfigurationError
from api_server.planning import max_sizing, sizing
from api_server.planning.env_block import engine_urls
from api_server.planning.flags import (
    Device,
    LlamaCppPlan,
    MaxPlan,
    check_llama_cpp,
    check_max,
    is_gguf,
    llama_cpp_flags,
    max_encoding,
    max_flags,
)
from api_server.planning.sizing import GIB, MIB, ModelSize, amount, wishes_of
from api_server.settings.engine_file import EngineConfig

ENGINE_MEMORY_GIB = {"llama-cpp": 16, "max": 32}
"""The limit of host memory that docker-compose.yaml gives an engine where `.env` names none."""


@dataclass(frozen=True)
class Machine:
    """What there is for engines, in MiB. `gpus` is empty on the CPU."""

    gpus: tuple[int, ...]
    host_mib: int
    cores: int

    @property
    def device(self) -> Device:
        """Where engines run."""
        return "gpu" if self.gpus else "cpu"


@dataclass(frozen=True)
class ModelNames:
    """A model's name for clients; its file or folder; a GGUF file's folder with its tokenizer."""

    served: str
    file: str
    tokenizer_folder: str | None = None


@dataclass(frozen=True)
class Planned:
    """The lines of `.env` that come of it, and what people are told."""

    values: dict[str, str]
    said: list[str]


def plan_llama_cpp(
    config: EngineConfig, model: ModelSize, names: ModelNames, machine: Machine
) -> Planned:
    """Raises `SetupError` for what cannot be honoured or does not fit, with what would."""
    check_llama_cpp(config)
    if not is_gguf(names.file):
        raise ConfigurationError(
            f"{names.file}: llama.cpp takes one file in GGUF format. ENGINE=max takes folders."
        )
    wanted = config.memory.prompt_cache_mib
    wishes = wishes_of(config)
    if machine.gpus:
        budget = sizing.gpu_budget(min(machine.gpus))
        shape = sizing.choose(wishes, model, budget)
        cache = sizing.prompt_cache_mib(wanted, machine.host_mib, len(machine.gpus))
        plan = LlamaCppPlan(shape, cache)
        host_bytes = cache * MIB + 4 * GIB  # of the weights only the page cache, which gives way
    else:
        budget = sizing.host_budget(machine.host_mib, 0 if wanted == "auto" else wanted)
        shape = sizing.choose(wishes, model, budget)
        left = sizing.prompt_cache_left_mib(model, shape, budget)
        cache = left if wanted == "auto" else wanted
        plan = LlamaCppPlan(shape, cache, threads=max(1, machine.cores - 1))
        host_bytes = sizing.needed_bytes(model, shape) + cache * MIB + 2 * GIB
    kv = amount(model.kv_bytes(shape.tokens, shape.kv_type))
    weights = amount(model.weight_bytes)
    sentence = (
        f"{budget.where}: {sizing.slots_of(shape)}, KV cache {shape.kv_type} ({kv}) beside "
        f"{weights} of weights."
    )
    said = [sentence, *_threads_said(plan)]
    values = _values("llama-cpp", shape.slots, shape.context_tokens, machine)
    values["LLAMA_CPP_FLAGS"] = " ".join(llama_cpp_flags(plan))
    values |= _host_limit("llama-cpp", host_bytes)
    return Planned(values, said + _gpus_said(machine.gpus) + _guess_said(model))


def plan_max(
    config: EngineConfig, model: ModelSize, names: ModelNames, machine: Machine
) -> Planned:
    """The same for MAX."""
    check_max(config)
    if is_gguf(names.file):
        max_encoding(names.file, machine.device)  # before the sizes, which would be of no use
    wishes = wishes_of(config)
    if machine.gpus:
        smallest = min(machine.gpus)
        shape = max_sizing.choose_on_gpu(wishes, model, smallest)
        where = f"GPU with {amount(smallest * MIB)}"
    else:
        shape = max_sizing.choose_on_cpu(wishes, model, machine.host_mib)
        where = f"CPU, with {amount(machine.host_mib * MIB)} of memory"
    sentence = (
        f"{where}: MAX with {shape.slots} requests of up to {shape.context_tokens} tokens, which "
        f"share a cache of {shape.shared_tokens} tokens beside {amount(model.weight_bytes)} of "
        "weights."
    )
    said = [sentence]
    if shape.shared_tokens < shape.slots * shape.context_tokens:
        whole = shape.shared_tokens // shape.context_tokens
        said.append(f"Only {whole} of them can be that long at once; further ones wait in MAX.")
    plan = MaxPlan(shape, machine.device, names.file, names.served, names.tokenizer_folder)
    values = _values("max", shape.slots, shape.context_tokens, machine)
    values["MAX_FLAGS"] = " ".join(max_flags(plan))
    cache_bytes = 0 if machine.gpus else 2 * model.kv_bytes(shape.shared_tokens, "f16")
    values |= _host_limit("max", model.weight_bytes + cache_bytes + 8 * GIB)
    return Planned(values, said + _gpus_said(machine.gpus) + _guess_said(model))


def _values(engine: str, slots: int, context_tokens: int, machine: Machine) -> dict[str, str]:
    return {
        "ENGINE_URLS": engine_urls(engine, len(machine.gpus)),
        "ENGINE_SLOTS": str(slots),
        "ENGINE_CONTEXT_TOKENS": str(context_tokens),
    }


def _host_limit(engine: str, size: int) -> dict[str, str]:
    """ENGINE_MEMORY, where the engine needs more than it has by default."""
    needed = -(-size // GIB)
    return {"ENGINE_MEMORY": f"{needed}g"} if needed > ENGINE_MEMORY_GIB[engine] else {}


def _threads_said(plan: LlamaCppPlan) -> list[str]:
    if plan.threads is None:
        return [f"Prompt cache in the machine's memory: {plan.prompt_cache_mib} MiB."]
    return [f"{plan.threads} threads; prompt cache: {plan.prompt_cache_mib} MiB."]


def _gpus_said(gpus: Sequence[int]) -> list[str]:
    if len(gpus) < 2:
        return []
    said = [f"{len(gpus)} GPUs: an engine for each; the gateway balances."]
    if max(gpus) - min(gpus) > max(gpus) // 20:
        sizes = ", ".join(amount(size * MIB) for size in gpus)
        said.append(f"They differ ({sizes}): all are planned for the smallest.")
    return said


def _guess_said(model: ModelSize) -> list[str]:
    if model.is_measured:
        return []
    return ["The model is not here yet: planned for an 8B of that size."]
