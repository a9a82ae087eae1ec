"""The synthetic model: its blocks, its layout, its vocabulary, against the gguf library."""

import functools
import random
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from gpu_proof.blocks import random_blocks
from gpu_proof.gguf_head import ALIGNMENT
from gpu_proof.model import model_bytes, write_model
from gpu_proof.shapes import LLAMA_3_8B, SMALL, Shape, TensorType, is_finer, tensors_of
from gpu_proof.vocabulary import SPECIALS, byte_letters, make_vocabulary

REAL_Q4_K_M_BYTES = 4_920_739_232
"""Of the Llama 3.1 8B that others quantised: its weights, and a head of some megabytes."""

REAL_PARAMETERS = 8_030_261_248
TYPES = {
    "Q4_K": gguf.GGMLQuantizationType.Q4_K,
    "Q6_K": gguf.GGMLQuantizationType.Q6_K,
}


def weights_of(kind: TensorType, count: int, spread: float) -> Any:
    data = random_blocks(kind, count, spread, random.Random(7))
    return dequantize(np.frombuffer(data, dtype=np.uint8), TYPES[kind])


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
@pytest.mark.parametrize("spread", [1 / 64, 1 / 16])
def test_blocks_are_weights_of_the_wanted_spread(kind: TensorType, spread: float) -> None:
    weights = weights_of(kind, 256 * 4000, spread)
    assert weights.size == 256 * 4000
    assert np.isfinite(weights).all()
    assert abs(weights.mean()) < spread / 50
    assert weights.std() == pytest.approx(spread, rel=0.03)


def test_no_two_blocks_are_the_same() -> None:
    data = random_blocks("Q4_K", 256 * 1000, 0.02, random.Random(1))
    assert len({bytes(data[start : start + 144]) for start in range(0, len(data), 144)}) == 1000


def test_a_q4_k_block_has_as_much_minimum_as_scale() -> None:
    """Else its weights would all be positive, and every layer would say the same."""
    block = random_blocks("Q4_K", 256, 0.02, random.Random(3))
    scales = block[4:16]
    for place in range(4):
        assert scales[place] == scales[place + 4]
        assert scales[place + 8] & 0x0F == scales[place + 8] >> 4


def test_a_part_of_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        random_blocks("Q6_K", 300, 0.02, random.Random(1))


def test_norms_are_ones() -> None:
    assert np.frombuffer(random_blocks("F32", 5, 0.1, random.Random(1)), "<f4").tolist() == [1] * 5


def test_the_8b_is_as_large_as_the_real_one() -> None:
    tensors = tensors_of(LLAMA_3_8B)
    assert sum(each.columns * each.rows for each in tensors) == REAL_PARAMETERS
    weights = sum(each.size_bytes for each in tensors)
    assert 0 < REAL_Q4_K_M_BYTES - weights < 10_000_000
    assert model_bytes(LLAMA_3_8B) - weights < 10_000_000


def test_q4_k_m_keeps_half_of_32_layers_finer() -> None:
    finer = [layer for layer in range(32) if is_finer(layer, 32)]
    assert finer == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.mark.parametrize(
    "shape",
    [("a", 1, 300, 4, 2, 512, 600), ("b", 1, 256, 3, 1, 512, 600), ("c", 1, 256, 4, 3, 512, 600)],
)
def test_a_shape_that_cannot_be_is_refused(shape: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=f"^{shape[0]}: "):
        Shape(*shape)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> gguf.GGUFReader:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    sizes: list[int] = []
    write_model(SMALL, path, sizes.append)
    assert path.stat().st_size == model_bytes(SMALL)
    assert sum(sizes) == path.stat().st_size
    return gguf.GGUFReader(path)


def test_the_library_reads_every_tensor(reader: gguf.GGUFReader) -> None:
    wanted = {each.name: each for each in tensors_of(SMALL)}
    assert {each.name for each in reader.tensors} == set(wanted)
    for tensor in reader.tensors:
        mine = wanted[tensor.name]
        assert tensor.tensor_type.name == mine.type
        assert tensor.n_bytes == mine.size_bytes
        assert tensor.data_offset % ALIGNMENT == 0
        shape = [mine.columns] if mine.rows == 1 else [mine.columns, mine.rows]
        assert tensor.shape.tolist() == shape
        weights = dequantize(tensor.data, tensor.tensor_type)
        spread = 0 if mine.type == "F32" else mine.columns**-0.5
        assert float(weights.std()) == pytest.approx(spread, rel=0.1)


def test_the_library_reads_the_values(reader: gguf.GGUFReader) -> None:
    def value(name: str) -> Any:
        return reader.fields[name].contents()

    assert value("general.architecture") == "llama"
    assert value("llama.attention.head_count_kv") == SMALL.kv_heads
    assert value("tokenizer.ggml.pre") == "llama-bpe"
    assert value("tokenizer.ggml.add_bos_token") is True
    tokens = value("tokenizer.ggml.tokens")
    assert len(tokens) == SMALL.vocabulary == value("llama.vocab_size")
    assert tokens[value("tokenizer.ggml.bos_token_id")] == "<|begin_of_text|>"
    assert tokens[value("tokenizer.ggml.eos_token_id")] == "<|eot_id|>"
    assert "<|start_header_id|>" in value("tokenizer.chat_template")


def test_a_half_written_model_is_not_there(tmp_path: Path) -> None:
    def stop(size: int) -> None:
        if size < 1_000_000:
            return
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model(SMALL, tmp_path / "small.gguf", stop)
    assert not (tmp_path / "small.gguf").exists()


@functools.cache
def whole_vocabulary() -> tuple[list[str], list[str]]:
    made = make_vocabulary(LLAMA_3_8B.vocabulary)
    return made.tokens, made.merges


def test_the_vocabulary_has_llama_3s_size_and_special_tokens() -> None:
    tokens, merges = whole_vocabulary()
    assert len(tokens) == len(set(tokens)) == 128_256
    assert len(merges) == len(set(merges)) == 128_256 - SPECIALS - 256
    wanted = {128_000: "<|begin_of_text|>", 128_001: "<|end_of_text|>", 128_009: "<|eot_id|>"}
    assert {number: tokens[number] for number in wanted} == wanted


def test_every_merge_joins_tokens_that_came_before() -> None:
    tokens, merges = whole_vocabulary()
    known = set(tokens[:256])
    for merge, made in zip(merges, tokens[256:], strict=False):
        left, right = merge.split(" ")
        assert left in known
        assert right in known
        assert left + right == made
        known.add(made)


def test_all_bytes_are_tokens() -> None:
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert not any(re.search(r"\s", letter) for letter in letters)


@pytest.mark.parametrize(("size", "why"), [(300, "fewer"), (10_000_000, "more")])
def test_a_vocabulary_that_cannot_be_is_refused(size: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_vocabulary(size)
