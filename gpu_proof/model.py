"""Writes a model of random weights as a GGUF file, quantised blocks at once.

Nothing is ever there in 16 bits: how fast an engine computes depends on shapes and types, not on
values. The same shape and seed give the same bytes.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from gpu_proof.blocks import random_blocks
from gpu_proof.gguf_head import head, padded, values_of
from gpu_proof.shapes import Shape, Tensor, tensors_of
from gpu_proof.vocabulary import make_vocabulary

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
PIECE_BYTES = 64 * 1024 * 1024
SEED = 1


def model_head(shape: Shape) -> bytes:
    """What stands before the weights."""
    template = CHAT_TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    values = values_of(shape, make_vocabulary(shape.vocabulary), template)
    return head(values, tensors_of(shape))


def model_bytes(shape: Shape) -> int:
    """The size of the whole file."""
    return len(model_head(shape)) + sum(padded(each.size_bytes) for each in tensors_of(shape))


def write_model(shape: Shape, path: Path, on_bytes: Callable[[int], object]) -> None:
    """The file appears when it is whole. on_bytes is told of each piece. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    random = Random(SEED)  # noqa: S311 - weights, no secrets
    with unfinished.open("wb") as file:
        on_bytes(file.write(model_head(shape)))
        for tensor in tensors_of(shape):
            for piece in _pieces(tensor, random):
                on_bytes(file.write(piece))
            file.write(bytes(padded(tensor.size_bytes) - tensor.size_bytes))
    unfinished.replace(path)


def _pieces(tensor: Tensor, random: Random) -> Iterator[bytearray]:
    """A tensor's blocks, some rows at a time: the largest tensor has 430 MB."""
    spread = 1 / math.sqrt(tensor.columns)
    at_once = max(1, PIECE_BYTES * tensor.rows // tensor.size_bytes)
    for first in range(0, tensor.rows, at_once):
        rows = min(at_once, tensor.rows - first)
        yield random_blocks(tensor.type, rows * tensor.columns, spread, random)
