"""Reads a Hugging Face folder without any library: how large will the model be in memory."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_server.errors import ConfigurationError

MAX_HEAD_BYTES = 100_000_000
"""The format's own bound."""

DTYPE_BYTES = {
    **dict.fromkeys(("float64", "F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("float32", "F32", "I32", "U32"), 4),
    **dict.fromkeys(("bfloat16", "BF16", "float16", "F16", "I16", "U16"), 2),
}
FLOATS = ("F64", "F32", "BF16", "F16")


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What the files of a model say. Sizes in tokens and bytes.

    `weight_bytes` is as loaded; `kv_bytes_per_token` counts one sequence in the weights' precision.
    """

    path: Path
    weight_bytes: int
    context_tokens: int
    kv_bytes_per_token: int


def read_folder(path: Path | None, model_id: str, dtype: str = "auto") -> HuggingFaceFolder:
    """Read config.json and the heads of all weight files.

    dtype: what weights are converted to when loaded; "auto" keeps them. Raises `ConfigurationError`
    that names the model and what is missing.
    """
    if path is None or not path.is_dir():
        raise ConfigurationError(
            f"models.{model_id}.path: {path} is no folder; it must be one in Hugging Face's form, "
            "with config.json, a tokenizer and *.safetensors."
        )
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ConfigurationError(
            f"models.{model_id}.path: there is no *.safetensors in {path}. Other forms of weights "
            "can hold code and are not loaded; convert them."
        )
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        sizes = [_weights_in(file, dtype) for file in files]
        return _folder(path, config, sizes, dtype)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise ConfigurationError(
            f"models.{model_id}.path: {path} is damaged or not complete ({exc}). Fetch it again."
        ) from exc


def _folder(
    path: Path, config: dict[str, Any], sizes: list[tuple[int, int]], dtype: str
) -> HuggingFaceFolder:
    text = {**config, **(config.get("text_config") or {})}

    def number(*names: str, default: int = 0) -> int:
        found = next((text[name] for name in names if isinstance(text.get(name), int)), default)
        return int(found)

    layers = number("num_hidden_layers", "n_layer", "num_layers", default=1)
    heads = number("num_attention_heads", "n_head", "num_heads", default=1)
    kv_heads = number("num_key_value_heads", default=heads)
    width = number("hidden_size", "n_embd", "d_model")
    head_width = number("head_dim", default=width // max(heads, 1))
    weight_bytes = sum(size for size, _ in sizes)
    item_bytes = DTYPE_BYTES.get(dtype) or max((item for _, item in sizes), default=4)
    return HuggingFaceFolder(
        path=path,
        weight_bytes=weight_bytes,
        context_tokens=number(
            "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", default=2048
        ),
        kv_bytes_per_token=2 * layers * kv_heads * head_width * item_bytes,
    )


def _weights_in(file: Path, dtype: str) -> tuple[int, int]:
    """Bytes that one file's tensors take when loaded, and the largest float's size in it."""
    with file.open("rb") as opened:
        head_bytes = int.from_bytes(opened.read(8), "little")
        if not 0 < head_bytes <= MAX_HEAD_BYTES:
            raise ValueError(f"{file.name} is no safetensors file")
        head = json.loads(opened.read(head_bytes))
    total, widest, end = 0, 1, 0
    for name, tensor in head.items():
        if name == "__metadata__":
            continue
        kind = tensor["dtype"]
        stored = DTYPE_BYTES.get(kind, 1)
        loaded = DTYPE_BYTES.get(dtype, stored) if kind in FLOATS else stored
        total += math.prod(tensor["shape"]) * loaded
        widest = max(widest, loaded)
        end = max(end, tensor["data_offsets"][1])
    if file.stat().st_size < 8 + head_bytes + end:
        raise ValueError(f"{file.name} is cut short")
    return total, widest
