"""How many requests an engine works on at once, of how many tokens, kept how exactly: by memory.

For llama.cpp, where each slot has its whole context reserved; MAX's shared cache: `max_sizing.py`.
Pure functions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from api_server.errors import ConfigurationError, SetupError
from api_server.settings.engine_file import EngineConfig

MIB = 1024**2
GIB = 1024**3
KvType = Literal["f16", "q8_0"]

GPU_MARGIN = 0.27
"""What stays free where numbers are chosen: CUDA's own, the computation's buffers, a desktop."""

MOST_GPU_MARGIN_BYTES = 8 * GIB
LEAST_GPU_MARGIN_BYTES = GIB + GIB // 4
"""What numbers of the file must leave free: CUDA and the buffers, and nobody else."""

HOST_MARGIN_BYTES = 4 * GIB
"""For the other services of the stack and the system, where numbers are chosen."""

LEAST_HOST_MARGIN_BYTES = 2 * GIB
MOST_PROMPT_CACHE_MIB = 2048
USUAL_CONTEXT = 4096
LONG_CONTEXT = 8192
LEAST_CONTEXT = 1024
CONTEXT_STEP = 256
"""llama.cpp rounds the context of a slot up to a multiple of it."""


@dataclass(frozen=True)
class ModelSize:
    """What a model takes. `kv_bytes_per_token` is in 16 bits.

    is_measured: read from the model, not assumed.
    """

    weight_bytes: int
    kv_bytes_per_token: int
    trained_tokens: int
    is_measured: bool = False

    def kv_bytes(self, tokens: int, kv_type: KvType) -> int:
        """Of so many tokens. In q8_0, 32 numbers take 34 bytes."""
        return self.kv_bytes_per_token * tokens * (34 if kv_type == "q8_0" else 64) // 64


LLAMA_8B_Q4 = ModelSize(4_920_739_232, 128 * 1024, 8192)
"""The model that `make start` fetches, Q4_K_M: planned for where there is none to read yet."""


@dataclass(frozen=True)
class Wishes:
    """What the file asks for; None: chosen."""

    slots: int | None = None
    context_tokens: int | None = None
    kv_type: KvType | None = None


@dataclass(frozen=True)
class Shape:
    """What an engine is started with; `context_tokens` is what each slot gets."""

    slots: int
    context_tokens: int
    kv_type: KvType

    @property
    def tokens(self) -> int:
        """Of all slots together."""
        return self.slots * self.context_tokens


@dataclass(frozen=True)
class Budget:
    """Memory for weights and KV cache, in bytes, and what may be chosen in it.

    comfortable: within which numbers are chosen; most: that those of the file may take.
    grows: whether memory that is left makes contexts longer.
    """

    where: str
    comfortable: int
    most: int
    most_slots: int
    grows: bool


def wishes_of(config: EngineConfig) -> Wishes:
    """Without what is `auto`."""
    slots, context = config.batching.max_batch_size, config.inference.context_length
    kv_type = config.memory.kv_cache_type
    return Wishes(
        slots=None if slots == "auto" else slots,
        context_tokens=None if context == "auto" else context,
        kv_type=None if kv_type == "auto" else kv_type,
    )


def gpu_budget(memory_mib: int) -> Budget:
    """Of one GPU with so much memory, as nvidia-smi tells it."""
    total = memory_mib * MIB
    most = max(0, total - LEAST_GPU_MARGIN_BYTES)
    comfortable = total - min(int(total * GPU_MARGIN), MOST_GPU_MARGIN_BYTES)
    where = f"GPU with {amount(total)}"
    return Budget(where, min(comfortable, most), most, most_slots=32, grows=True)


def host_budget(memory_mib: int, prompt_cache_mib: int) -> Budget:
    """Of a machine without a GPU, where the prompt cache shares that memory."""
    total = memory_mib * MIB
    left = total - prompt_cache_mib * MIB
    comfortable, most = left - HOST_MARGIN_BYTES, left - LEAST_HOST_MARGIN_BYTES
    where = f"CPU, with {amount(total)} of memory"
    return Budget(where, max(0, comfortable), max(0, most), most_slots=4, grows=False)


def choose(wishes: Wishes, model: ModelSize, budget: Budget) -> Shape:
    """The most slots of 4096 tokens; then longer contexts, as `_grown` says.

    More memory never gives fewer slots or tokens. Raises `SetupError` that says what would fit.
    """
    check_trained(wishes, model)
    shape = _chosen(wishes, model, budget)
    if shape is None:
        raise SetupError(_too_large(wishes, model, budget))
    return shape


def check_trained(wishes: Wishes, model: ModelSize) -> None:
    """Raises `ConfigurationError` for a context beyond what the model, where it is known, knows."""
    if model.is_measured and (wishes.context_tokens or 0) > model.trained_tokens:
        raise ConfigurationError(
            f"inference.context_length: {wishes.context_tokens} is more than the "
            f"{model.trained_tokens} tokens that the model was trained on. "
            f"Set {model.trained_tokens} or less, or auto."
        )


def prompt_cache_mib(wanted: int | Literal["auto"], host_mib: int, engines: int) -> int:
    """Host memory for the contexts of each engine beside a GPU.

    Raises `ConfigurationError` where what is wanted is more than there is.
    """
    if wanted == "auto":
        share = max(0, host_mib - HOST_MARGIN_BYTES // MIB) // (2 * engines)
        return min(MOST_PROMPT_CACHE_MIB, share // 256 * 256)
    most = max(0, host_mib - LEAST_HOST_MARGIN_BYTES // MIB) // engines
    if wanted > most:
        each = f" for each of {engines} engines" if engines > 1 else ""
        raise ConfigurationError(
            f"memory.prompt_cache_mib: {wanted}{each} is more than the machine's memory carries "
            f"({host_mib} MiB). Set {most} or less, or auto."
        )
    return wanted


def prompt_cache_left_mib(model: ModelSize, shape: Shape, budget: Budget) -> int:
    """What the shape leaves of the machine's memory, up to 2 GiB, in steps of 256 MiB."""
    left = max(0, budget.comfortable - needed_bytes(model, shape))
    return min(MOST_PROMPT_CACHE_MIB, left // MIB // 256 * 256)


def needed_bytes(model: ModelSize, shape: Shape) -> int:
    """Weights and KV cache."""
    return model.weight_bytes + model.kv_bytes(shape.tokens, shape.kv_type)


def slots_of(shape: Shape) -> str:
    """For people: 32 slots of 4096 tokens."""
    return f"{shape.slots} slot{'s' * (shape.slots != 1)} of {shape.context_tokens} tokens"


def amount(size: int) -> str:
    """Of bytes, for people: 24 GiB, 8.5 GiB, 4 MiB."""
    if size < GIB // 10:
        return f"{size / MIB:.0f} MiB"
    return f"{size / GIB:.1f}".removesuffix(".0") + " GiB"


def _chosen(wishes: Wishes, model: ModelSize, budget: Budget) -> Shape | None:
    """The best that fits comfortably; one slot may take more, where it would be left with less."""
    shape = next(_fitting(wishes, model, budget.comfortable, budget.most_slots), None)
    if shape is not None and budget.grows and wishes.context_tokens is None:
        shape = _grown(shape, wishes, model, budget)
    tight = next(_fitting(wishes, model, budget.most, most_slots=1), None)
    if tight is None or (shape is not None and shape.tokens >= tight.tokens):
        return shape
    return tight


def _fitting(wishes: Wishes, model: ModelSize, size: int, most_slots: int) -> Iterator[Shape]:
    for shape in _candidates(wishes, model, most_slots):
        for kv_type in _kv_types(wishes):
            exact = replace(shape, kv_type=kv_type)
            if needed_bytes(model, exact) <= size:
                yield exact


def _candidates(wishes: Wishes, model: ModelSize, most_slots: int) -> Iterator[Shape]:
    """The best first."""
    trained = max(CONTEXT_STEP, model.trained_tokens // CONTEXT_STEP * CONTEXT_STEP)
    sizes = (USUAL_CONTEXT, USUAL_CONTEXT // 2, LEAST_CONTEXT)
    contexts = list(dict.fromkeys(min(size, trained) for size in sizes))
    if wishes.context_tokens is not None:
        contexts = [wishes.context_tokens]
    powers = (1 << exponent for exponent in range(most_slots.bit_length() - 1, -1, -1))
    counts = [wishes.slots] if wishes.slots is not None else list(powers)
    for context in contexts:
        for slots in counts:
            yield Shape(slots, context, "f16")


def _grown(shape: Shape, wishes: Wishes, model: ModelSize, budget: Budget) -> Shape:
    """Where all slots are there: first 8192 tokens, then f16, then still longer contexts."""
    if shape.slots != (wishes.slots or budget.most_slots):
        return shape
    trained = model.trained_tokens // CONTEXT_STEP * CONTEXT_STEP
    best = _kv_types(wishes)[0]
    sizes = [(min(trained, LONG_CONTEXT), kv_type) for kv_type in reversed(_kv_types(wishes))]
    context = LONG_CONTEXT
    while context < trained:
        context = min(trained, context * 2)
        sizes.append((context, best))
    for context, kv_type in sizes:
        larger = replace(shape, context_tokens=context, kv_type=kv_type)
        if needed_bytes(model, larger) <= budget.comfortable and larger.tokens >= shape.tokens:
            shape = larger
    return shape


def _kv_types(wishes: Wishes) -> list[KvType]:
    return [wishes.kv_type] if wishes.kv_type is not None else ["f16", "q8_0"]


def _too_large(wishes: Wishes, model: ModelSize, budget: Budget) -> str:
    *_, least = _candidates(wishes, model, most_slots=1)
    least = replace(least, kv_type=_kv_types(wishes)[-1])
    said = (
        f"{budget.where}: {slots_of(least)} take {amount(needed_bytes(model, least))} "
        f"({amount(model.weight_bytes)} of weights, the rest KV cache in {least.kv_type}), and "
        f"{amount(budget.most)} can be used."
    )
    fewer = _chosen(replace(wishes, slots=None), model, budget)
    shorter = _chosen(replace(wishes, context_tokens=None), model, budget)
    coarser = _chosen(replace(wishes, kv_type="q8_0"), model, budget)
    remedies = []
    if wishes.slots is not None and fewer is not None:
        remedies.append(f"batching.max_batch_size: {fewer.slots}")
    if wishes.context_tokens is not None and shorter is not None:
        remedies.append(f"inference.context_length: {shorter.context_tokens}")
    if wishes.kv_type == "f16" and coarser is not None:
        remedies.append("memory.kv_cache_type: q8_0")
    chosen = _chosen(Wishes(), model, budget)
    if not remedies and chosen is not None:
        return f"{said} Set all of max_batch_size, context_length and kv_cache_type to auto."
    if not remedies:
        return f"{said} Choose a smaller model with MODEL_SOURCE, or more memory."
    return f"{said} This would fit: {', or '.join(remedies)}."
