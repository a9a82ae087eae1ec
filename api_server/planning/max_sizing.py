"""The same for MAX, whose requests share one cache: a batch need not hold full contexts. Pure."""

from dataclasses import dataclass

from api_server.errors import SetupError
from api_server.planning.sizing import (
    GIB,
    HOST_MARGIN_BYTES,
    MIB,
    USUAL_CONTEXT,
    ModelSize,
    Wishes,
    amount,
    check_trained,
)

LLAMA_8B_BF16 = ModelSize(16_060_522_240, 128 * 1024, 8192)
"""The default model in bfloat16, planned for where there is none to read yet."""

UTILIZATION = 0.9
"""Of a GPU's memory: MAX's own default of --device-memory-utilization."""

ACTIVATION_BYTES = GIB
TOKENS_OF_A_REQUEST = 1024
"""Of the shared cache, for each request of a batch whose size is chosen."""

MOST_SLOTS, MOST_SLOTS_ON_CPU = 32, 4
CONTEXT, LEAST_CONTEXT = 8192, 1024


@dataclass(frozen=True)
class MaxShape:
    """What MAX is started with; all requests together have `shared_tokens` in its cache."""

    slots: int
    context_tokens: int
    shared_tokens: int


def choose_on_gpu(wishes: Wishes, model: ModelSize, memory_mib: int) -> MaxShape:
    """One request at least must find its whole context; MAX would cut it without a word.

    Raises `SetupError` that says what would fit.
    """
    check_trained(wishes, model)
    room = int(memory_mib * MIB * UTILIZATION) - ACTIVATION_BYTES - model.weight_bytes
    shared = max(0, room) // model.kv_bytes_per_token
    context = wishes.context_tokens or _longest(model, shared)
    if shared < context:
        most = _longest(model, shared)
        remedy = "llama.cpp serves a quantized model in a third of that: ENGINE=llama-cpp"
        if shared >= LEAST_CONTEXT:
            remedy = f"This would fit: inference.context_length: {most}"
        raise SetupError(
            f"GPU with {_beside(model, memory_mib)} for {shared} tokens, and one request may have "
            f"{context}. {remedy}."
        )
    slots = wishes.slots or max(1, min(MOST_SLOTS, shared // TOKENS_OF_A_REQUEST))
    return MaxShape(slots, context, min(shared, slots * context))


def choose_on_cpu(wishes: Wishes, model: ModelSize, memory_mib: int) -> MaxShape:
    """MAX takes the whole batch's cache of the machine's memory, in 32 bits.

    Raises `SetupError` that says what would fit.
    """
    check_trained(wishes, model)
    context = wishes.context_tokens or min(USUAL_CONTEXT, model.trained_tokens)
    room = memory_mib * MIB - HOST_MARGIN_BYTES - ACTIVATION_BYTES - model.weight_bytes
    shared = max(0, room) // (2 * model.kv_bytes_per_token)
    slots = wishes.slots or min(MOST_SLOTS_ON_CPU, shared // context)
    if slots < 1 or slots * context > shared:
        slots = max(1, slots)
        fewer = f"batching.max_batch_size: {shared // context}" if shared >= context else None
        shorter = shared // slots // 128 * 128
        shorter_text = f"inference.context_length: {shorter}" if shorter >= LEAST_CONTEXT else None
        remedies = ", or ".join(text for text in (fewer, shorter_text) if text)
        remedy = f"This would fit: {remedies}." if remedies else "Choose a smaller model."
        raise SetupError(
            f"CPU with {_beside(model, memory_mib)} for {shared} tokens, and {slots} requests may "
            f"have {slots * context}. {remedy}"
        )
    return MaxShape(slots, context, slots * context)


def _beside(model: ModelSize, memory_mib: int) -> str:
    return (
        f"{amount(memory_mib * MIB)}: beside {amount(model.weight_bytes)} of weights MAX has room"
    )


def _longest(model: ModelSize, shared: int) -> int:
    context = min(CONTEXT, model.trained_tokens)
    while context > max(shared, LEAST_CONTEXT):
        context //= 2
    return context
