"""Writes the GGUF file that llama-server loads, in 8 bit (Q8_0), 16 or 32 bit.

Owns the file's metadata and the order of the rows; needs the `gguf` package, no llama.cpp.
"""

import json
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.tiny.shape import Shape
from models.tiny.tokenizer import LEARNED

Tensors = dict[str, NDArray[np.float32]]

HERE: Final = Path(__file__).parent
SHAPE: Final = Shape()
KINDS: Final = {
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}
# Hugging Face's names of the tensors of a layer, and GGUF's.
LAYER_NAMES: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES: Final = {"model.embed_tokens.weight": "token_embd.weight",
                      "model.norm.weight": "output_norm.weight"}  # fmt: skip


def names() -> dict[str, str]:
    """Every tensor: Hugging Face's name to GGUF's. The output layer is the embedding's (tied)."""
    pairs = dict(OUTER_NAMES)
    for layer in range(SHAPE.layers):
        for ours, theirs in LAYER_NAMES.items():
            pairs[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    return pairs


def heads_of(name: str) -> int:
    """How many heads' rows llama.cpp wants interleaved in this tensor; 0 for none."""
    if "q_proj" in name:
        return SHAPE.heads
    return SHAPE.kv_heads if "k_proj" in name else 0


def interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """From halves rotated against each other (Hugging Face) to neighbours (llama.cpp)."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def separate(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The inverse of `interleave`."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def write_gguf(path: Path, tensors: Tensors, vocabulary: dict[str, Any], kind: str) -> None:
    """Write tensors (Hugging Face's names) with the vocabulary (tokenizer.json) to path."""
    tensor_type, file_type = KINDS[kind]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name("Tiny")
    writer.add_size_label("3.4M")
    writer.add_license("apache-2.0")
    writer.add_description("A tiny chat model to try a serving stack with")
    writer.add_languages(["en"])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(SHAPE.context)
    writer.add_embedding_length(SHAPE.width)
    writer.add_block_count(SHAPE.layers)
    writer.add_feed_forward_length(SHAPE.ffn)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.kv_heads)
    writer.add_rope_dimension_count(SHAPE.head_width)
    writer.add_rope_freq_base(SHAPE.rope_base)
    writer.add_layer_norm_rms_eps(SHAPE.norm_eps)
    _add_vocabulary(writer, vocabulary)
    for ours, theirs in names().items():
        rows = tensors[ours].astype(np.float32)
        heads = heads_of(ours)
        if heads:
            rows = interleave(rows, heads)
        if rows.ndim == 1:
            writer.add_tensor(theirs, rows)
        else:
            packed = gguf.quants.quantize(rows, tensor_type)
            writer.add_tensor(theirs, packed, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: dict[str, Any]) -> None:
    numbers: dict[str, int] = dict(vocabulary["model"]["vocab"])
    numbers |= {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    tokens = sorted(numbers, key=lambda token: numbers[token])
    types = [
        gguf.TokenType.NORMAL if numbers[token] < LEARNED else gguf.TokenType.CONTROL
        for token in tokens
    ]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["model"]["merges"]])
    writer.add_bos_token_id(numbers["<|begin_of_text|>"])
    writer.add_eos_token_id(numbers["<|eot_id|>"])
    writer.add_eot_token_id(numbers["<|eot_id|>"])
    writer.add_pad_token_id(numbers["<|finetune_right_pad_id|>"])
    writer.add_add_bos_token(value=True)  # llama-server then drops the one that the template says
    writer.add_add_eos_token(value=False)
    writer.add_chat_template(chat_template())


def chat_template() -> str:
    """The Jinja template: Llama 3's headers, tools as JSON lines in the system turn."""
    return (HERE / "chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")


def export(weights: Path, vocabulary: Path, path: Path, kind: str = "q8_0") -> None:
    """From the training's two files to the one that is shipped."""
    described = json.loads(vocabulary.read_text(encoding="utf-8"))
    write_gguf(path, load_file(str(weights)), described, kind)
