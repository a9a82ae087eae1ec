"""The dimensions of the network, once: training, export and other forms all read them here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of the network."""

    vocab: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    ffn: int = 768
    context: int = 2048
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
