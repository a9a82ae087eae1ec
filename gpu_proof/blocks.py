"""Random weights as blocks of a quantised type, written as they lie in a GGUF file. Pure.

Each block is valid and its weights have mean 0 and about the wanted spread, so that activations
neither vanish nor overflow. Layouts: block_q4_K and block_q6_K of llama.cpp's ggml-common.h.
"""

import math
import struct
from random import Random

from gpu_proof.shapes import BLOCKS, TensorType

_EVEN_SCALES = math.sqrt(sum(scale * scale for scale in range(64)) / 64)
_LEVELS_16 = math.sqrt((16**2 - 1) / 12)
_SIGNED_SCALES = math.sqrt(sum(scale * scale for scale in range(-128, 128)) / 256)
_LEVELS_64 = math.sqrt((64**2 - 1) / 12 + 0.25)

_SAME_NIBBLES = bytes((byte & 0x0F) * 0x11 for byte in range(256))
"""For each byte the one whose upper half is its lower half."""

_STEP = 7.5
"""What a Q4_K level must lose to have mean 0: the middle of 0 to 15."""


def random_blocks(kind: TensorType, weights: int, spread: float, random: Random) -> bytearray:
    """So many weights, a multiple of a block's, of about this standard deviation.

    F32 is for norms: all ones.
    """
    per_block, size = BLOCKS[kind]
    count, rest = divmod(weights, per_block)
    if rest:
        raise ValueError(f"{weights} weights are no multiple of {per_block}")
    if kind == "F32":
        return bytearray(struct.pack("<f", 1.0) * count)
    data = bytearray(random.randbytes(count * size))
    if kind == "Q4_K":
        _even_q4_k(data, count, spread)
    else:
        _fill(data, 208, 210, struct.pack("<e", spread / (_SIGNED_SCALES * _LEVELS_64)), count)
    return data


def _even_q4_k(data: bytearray, count: int, spread: float) -> None:
    """A weight is d * scale * level - dmin * minimum; with minimum = scale and dmin = 7.5 d its
    mean is 0. Bytes: d, dmin, 12 of scales and minima in 6 bits, 128 of levels.
    """
    size = BLOCKS["Q4_K"][1]
    d = spread / (_EVEN_SCALES * _LEVELS_16)
    _fill(data, 0, 4, struct.pack("<ee", d, _STEP * d), count)
    for place in range(4):
        data[8 + place :: size] = data[4 + place :: size]
        data[12 + place :: size] = data[12 + place :: size].translate(_SAME_NIBBLES)


def _fill(data: bytearray, start: int, end: int, value: bytes, count: int) -> None:
    """The same bytes at the same place of every block."""
    size = len(data) // count
    for place in range(start, end):
        data[place::size] = value[place - start : place - start + 1] * count
