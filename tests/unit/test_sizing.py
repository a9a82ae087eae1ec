"""Slots, contexts and their form by memory: the table of the docs, and what holds for any size."""

import itertools
from dataclasses import replace

import pytest

from api_server.errors import ConfigurationError, SetupError
from api_server.planning.sizing import (
    GIB,
    LLAMA_8B_Q4,
    MIB,
    Budget,
    ModelSize,
    Shape,
    Wishes,
    choose,
    gpu_budget,
    host_budget,
    needed_bytes,
    prompt_cache_left_mib,
    prompt_cache_mib,
)

AUTO = Wishes()
LLAMA_31 = ModelSize(4_920_739_232, 131072, 131072, is_measured=True)
LLAMA_3B = ModelSize(2_019_377_696, 114_688, 131072, is_measured=True)
LLAMA_70B = ModelSize(42_520_398_432, 327_680, 131072, is_measured=True)
TINY = ModelSize(3_700_000, 2048, 2048, is_measured=True)
MODELS = (LLAMA_8B_Q4, LLAMA_31, LLAMA_3B, LLAMA_70B, TINY)
GPUS = range(2048, 200_000, 997)
HOSTS = range(2048, 66_000, 499)
WISHES = [
    Wishes(*wish) for wish in itertools.product((None, 2, 32), (None, 1024), (None, "f16", "q8_0"))
]


def chosen(wishes: Wishes, model: ModelSize, budget: Budget) -> Shape | None:
    try:
        return choose(wishes, model, budget)
    except SetupError:
        return None


@pytest.mark.parametrize(
    ("memory_mib", "shape"),
    [
        (8188, Shape(4, 4096, "q8_0")),  # what such cards really have: a little less, or ECC
        (12288, Shape(8, 4096, "f16")),
        (15360, Shape(16, 4096, "q8_0")),
        (16384, Shape(16, 4096, "q8_0")),
        (23034, Shape(32, 4096, "q8_0")),
        (24576, Shape(32, 4096, "q8_0")),
        (32607, Shape(32, 8192, "q8_0")),
        (46068, Shape(32, 8192, "f16")),
        (49140, Shape(32, 8192, "f16")),
        (81559, Shape(32, 8192, "f16")),
    ],
)
def test_the_table(memory_mib: int, shape: Shape) -> None:
    assert choose(AUTO, LLAMA_8B_Q4, gpu_budget(memory_mib)) == shape


def test_a_model_that_was_trained_on_more_gets_more() -> None:
    assert choose(AUTO, LLAMA_31, gpu_budget(81559)) == Shape(32, 16384, "f16")
    assert choose(replace(AUTO, slots=4), LLAMA_31, gpu_budget(81559)).context_tokens == 131072


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wishes", WISHES)
def test_what_is_chosen_fits_and_keeps_what_was_asked(wishes: Wishes, model: ModelSize) -> None:
    budgets = [*map(gpu_budget, GPUS), *(host_budget(mib, 0) for mib in HOSTS)]
    found = [(budget, shape) for budget in budgets if (shape := chosen(wishes, model, budget))]
    assert found
    for budget, shape in found:
        assert needed_bytes(model, shape) <= budget.most
        assert shape.context_tokens % 256 == 0
        assert shape.context_tokens <= model.trained_tokens
        assert shape.slots == (wishes.slots or shape.slots)
        assert shape.context_tokens == (wishes.context_tokens or shape.context_tokens)
        assert shape.kv_type == (wishes.kv_type or shape.kv_type)
        assert wishes.slots or shape.slots <= budget.most_slots


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wishes", WISHES)
def test_more_memory_never_gives_less(wishes: Wishes, model: ModelSize) -> None:
    for budgets in (map(gpu_budget, GPUS), (host_budget(mib, 0) for mib in HOSTS)):
        tokens = [shape.tokens if (shape := chosen(wishes, model, b)) else 0 for b in budgets]
        assert tokens == sorted(tokens)


@pytest.mark.parametrize("memory_mib", [8188, 12288, 24576, 81559])
def test_a_quarter_or_8_gib_stays_free_where_numbers_are_chosen(memory_mib: int) -> None:
    shape = choose(AUTO, LLAMA_8B_Q4, gpu_budget(memory_mib))
    free = memory_mib * MIB - needed_bytes(LLAMA_8B_Q4, shape)
    assert free >= min(memory_mib * MIB / 4, 8 * GIB)


def test_numbers_of_the_file_may_take_what_would_not_be_chosen() -> None:
    wishes = Wishes(32, 4096, "f16")
    assert choose(wishes, LLAMA_8B_Q4, gpu_budget(24576)) == Shape(32, 4096, "f16")


def test_no_number_of_the_file_takes_what_cuda_needs() -> None:
    takes_all_but_a_gib = LLAMA_8B_Q4.weight_bytes + 16 * GIB + GIB
    with pytest.raises(SetupError):
        choose(Wishes(32, 4096, "f16"), LLAMA_8B_Q4, gpu_budget(takes_all_but_a_gib // MIB))
    enough = gpu_budget(takes_all_but_a_gib // MIB + 257)
    assert choose(Wishes(32, 4096, "f16"), LLAMA_8B_Q4, enough)


@pytest.mark.parametrize(
    ("wishes", "remedy"),
    [
        (Wishes(32, 8192, None), "batching.max_batch_size: 8, or inference.context_length: 4096"),
        (Wishes(32, 4096, "f16"), "batching.max_batch_size: 8, or inference.context_length: 2048"),
        (Wishes(32, 4096, "f16"), "or memory.kv_cache_type: q8_0"),
    ],
)
def test_what_cannot_fit_says_what_would(wishes: Wishes, remedy: str) -> None:
    with pytest.raises(SetupError, match=f"16 GiB: 32 slots .* This would fit: .*{remedy}"):
        choose(wishes, LLAMA_8B_Q4, gpu_budget(16384))


def test_the_remedies_of_an_error_are_true() -> None:
    budget = gpu_budget(16384)
    for remedy in (Wishes(8, 8192), Wishes(32, 4096), Wishes(8, 4096, "f16")):
        assert chosen(remedy, LLAMA_8B_Q4, budget)


def test_a_model_too_large_for_the_gpu() -> None:
    with pytest.raises(SetupError, match=r"39\.6 GiB of weights.*Choose a smaller model"):
        choose(AUTO, LLAMA_70B, gpu_budget(24576))


def test_no_context_beyond_the_training_where_that_is_known() -> None:
    wishes = Wishes(context_tokens=8192)
    with pytest.raises(ConfigurationError, match="8192 is more than the 2048 tokens"):
        choose(wishes, TINY, gpu_budget(24576))
    assert choose(wishes, replace(TINY, is_measured=False), gpu_budget(24576))


def test_a_machine_without_a_gpu_is_as_make_local() -> None:
    assert choose(AUTO, LLAMA_31, host_budget(15_800, 0)) == Shape(4, 4096, "f16")
    assert choose(AUTO, LLAMA_31, host_budget(200_000, 0)) == Shape(4, 4096, "f16")
    assert choose(AUTO, LLAMA_31, host_budget(7_700, 0)) == Shape(1, 4096, "f16")


def test_the_prompt_cache_is_what_the_machine_can_give() -> None:
    assert prompt_cache_mib("auto", 64_000, engines=1) == 2048
    assert prompt_cache_mib("auto", 16_000, engines=4) == 1280
    assert prompt_cache_mib("auto", 3_000, engines=1) == 0
    assert prompt_cache_mib(5000, 16_000, engines=2) == 5000
    with pytest.raises(ConfigurationError, match=r"for each of 4 engines .* Set 3488 or less"):
        prompt_cache_mib(5000, 16_000, engines=4)
    shape = Shape(4, 4096, "f16")
    assert prompt_cache_left_mib(LLAMA_31, shape, host_budget(64_000, 0)) == 2048
    assert prompt_cache_left_mib(LLAMA_31, shape, host_budget(11_500, 0)) == 512
    assert prompt_cache_left_mib(LLAMA_31, shape, host_budget(8_000, 0)) == 0
