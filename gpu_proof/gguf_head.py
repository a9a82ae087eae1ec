"""The head of a GGUF file (version 3): values, and where each tensor lies. Pure."""

import struct
from collections.abc import Mapping, Sequence

from gpu_proof.shapes import Shape, Tensor, TensorType
from gpu_proof.vocabulary import BEGIN, END_OF_TURN, Vocabulary

ALIGNMENT = 32
_VERSION = 3
_TYPES: dict[TensorType, int] = {"F32": 0, "Q4_K": 12, "Q6_K": 14}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_Q4_K_M = 15
"""llama.cpp's number for a file of that mix of types."""

Value = int | float | bool | str | Sequence[str] | Sequence[int]


def values_of(shape: Shape, vocabulary: Vocabulary, chat_template: str) -> dict[str, Value]:
    """What llama.cpp must know of a Llama 3 of that shape."""
    return {
        "general.architecture": "llama",
        "general.name": f"{shape.name}, random weights",
        "general.file_type": _Q4_K_M,
        "general.quantization_version": 2,
        "llama.block_count": shape.layers,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.hidden,
        "llama.feed_forward_length": shape.ffn,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": shape.head_size,
        "llama.rope.freq_base": shape.rope_base,
        "llama.vocab_size": shape.vocabulary,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.bos_token_id": vocabulary.special(BEGIN),
        "tokenizer.ggml.eos_token_id": vocabulary.special(END_OF_TURN),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": chat_template,
    }


def head(values: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    """All bytes before the first tensor's, which begin right after it."""
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(values))]
    parts += [_string(name) + _value(value) for name, value in values.items()]
    offset = 0
    for tensor in tensors:
        dimensions = (tensor.columns,) if tensor.rows == 1 else (tensor.columns, tensor.rows)
        parts.append(_string(tensor.name) + struct.pack("<I", len(dimensions)))
        parts.append(struct.pack(f"<{len(dimensions)}Q", *dimensions))
        parts.append(struct.pack("<IQ", _TYPES[tensor.type], offset))
        offset += padded(tensor.size_bytes)
    written = b"".join(parts)
    return written.ljust(padded(len(written)), b"\0")


def padded(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    start = struct.pack("<I", _ARRAY)
    texts = [each for each in value if isinstance(each, str)]
    if texts:
        items = b"".join(map(_string, texts))
        return start + struct.pack("<IQ", _STRING, len(texts)) + items
    return start + struct.pack(f"<IQ{len(value)}i", _INT32, len(value), *value)
