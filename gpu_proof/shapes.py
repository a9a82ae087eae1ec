"""The tensors of a Llama by its shape, in the types that Q4_K_M gives them. Pure.

The rules are those of llama.cpp's llama-quant.cpp for a dense model smaller than 70B; a test has
llama-quantize itself choose, and compares.
"""

from dataclasses import dataclass
from typing import Literal

TensorType = Literal["F32", "Q4_K", "Q6_K"]

SUPER_BLOCK = 256
"""Weights in a block of Q4_K or Q6_K: each row of a matrix must be a multiple of it."""

BLOCKS: dict[TensorType, tuple[int, int]] = {"F32": (1, 4), "Q4_K": (256, 144), "Q6_K": (256, 210)}
"""Weights and bytes of a block."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama. `context` is what it claims to be trained on, in tokens."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    context: int = 8192
    rope_base: float = 500_000.0

    def __post_init__(self) -> None:
        """Raises ValueError for what Q4_K_M cannot hold."""
        if self.hidden % SUPER_BLOCK or self.ffn % SUPER_BLOCK:
            raise ValueError(f"{self.name}: rows must be multiples of {SUPER_BLOCK}")
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"{self.name}: heads must divide the hidden size, KV heads the heads")

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def file_name(self) -> str:
        return f"{self.name}-random-q4_k_m.gguf"


LLAMA_3_8B = Shape("llama-3-8b", 32, 4096, 32, 8, 14336, 128256)
SMALL = Shape("small", 2, 256, 4, 2, 768, 8448)
SHAPES = {"8b": LLAMA_3_8B, "small": SMALL}


@dataclass(frozen=True)
class Tensor:
    """`columns` are what a row holds and what the file names first; a vector has one row."""

    name: str
    columns: int
    rows: int
    type: TensorType

    @property
    def size_bytes(self) -> int:
        weights, size = BLOCKS[self.type]
        return self.columns * self.rows // weights * size


def tensors_of(shape: Shape) -> list[Tensor]:
    """All of them, in the order of the file."""
    hidden, kv = shape.hidden, shape.head_size * shape.kv_heads
    found = [Tensor("token_embd.weight", hidden, shape.vocabulary, "Q4_K")]
    for layer in range(shape.layers):
        fine: TensorType = "Q6_K" if is_finer(layer, shape.layers) else "Q4_K"
        of_layer = (
            Tensor("attn_norm.weight", hidden, 1, "F32"),
            Tensor("attn_q.weight", hidden, hidden, "Q4_K"),
            Tensor("attn_k.weight", hidden, kv, "Q4_K"),
            Tensor("attn_v.weight", hidden, kv, fine),
            Tensor("attn_output.weight", hidden, hidden, "Q4_K"),
            Tensor("ffn_norm.weight", hidden, 1, "F32"),
            Tensor("ffn_gate.weight", hidden, shape.ffn, "Q4_K"),
            Tensor("ffn_up.weight", hidden, shape.ffn, "Q4_K"),
            Tensor("ffn_down.weight", shape.ffn, hidden, fine),
        )
        found += [
            Tensor(f"blk.{layer}.{each.name}", each.columns, each.rows, each.type)
            for each in of_layer
        ]
    found.append(Tensor("output_norm.weight", hidden, 1, "F32"))
    found.append(Tensor("output.weight", hidden, shape.vocabulary, "Q6_K"))
    return found


def is_finer(layer: int, layers: int) -> bool:
    """Whether Q4_K_M keeps attn_v and ffn_down of a layer in Q6_K (llama.cpp: use_more_bits)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
