"""Reads the head of a GGUF file: is it one, and how large will the model be in memory."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from api_server.errors import SetupError

MAGIC = b"GGUF"
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_ITEMS = 4_000_000
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"}
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_POOLINGS = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
Value = int | float | bool | str | None


class _BrokenError(Exception):
    """The head ends early or holds what cannot be."""


@dataclass(frozen=True)
class GgufHead:
    """What the head of a model file says. Sizes in tokens, counts or bytes.

    `pooling` is how an embedding model makes one vector of all tokens; None when it does not say.
    """

    path: Path
    file_bytes: int
    architecture: str
    name: str
    context_tokens: int
    kv_bytes_per_token: int
    has_chat_template: bool
    pooling: str | None = None


def read_head(path: Path, variable: str = "MODEL") -> GgufHead:
    """Read a file's head. Raises `SetupError` when it is missing or no usable GGUF model.

    variable: what the operator names the file with, for the message.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise SetupError(f"{path} is no file. {variable} must name one model file in GGUF format.")
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise SetupError(
                    f"{path} is no GGUF file. {variable} must name a model in llama.cpp's GGUF "
                    "format."
                )
            values, tensors = _read_values(file)
            last_tensor = _last_tensor_offset(file, tensors)
            alignment = values.get("general.alignment")
            step = alignment if isinstance(alignment, int) and alignment > 0 else 32
            data_start = -(-file.tell() // step) * step
        if tensors and path.stat().st_size <= data_start + last_tensor:
            raise _BrokenError
    except OSError as exc:
        raise SetupError(
            f"The model file {path} cannot be read ({exc.strerror}). Check {variable}."
        ) from exc
    except (_BrokenError, struct.error, UnicodeDecodeError, RecursionError) as exc:
        raise SetupError(
            f"{path} begins like a GGUF file but is damaged or cut short. Download it again."
        ) from exc
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise SetupError(
            f"{path} is a GGUF file without a model. {variable} must name a whole model."
        )
    return _head(path, architecture, values)


def _head(path: Path, architecture: str, values: dict[str, Value]) -> GgufHead:

    def number(key: str, default: int) -> int:
        value = values.get(f"{architecture}.{key}")
        return value if isinstance(value, int) else default

    heads = max(number("attention.head_count", 1), 1)
    kv_heads = number("attention.head_count_kv", heads)
    head_size = number("embedding_length", 0) // heads
    key_size = number("attention.key_length", head_size)
    value_size = number("attention.value_length", head_size)
    return GgufHead(
        path=path,
        file_bytes=path.stat().st_size,
        architecture=architecture,
        name=str(values.get("general.name") or path.stem),
        context_tokens=number("context_length", 2048),
        kv_bytes_per_token=number("block_count", 1) * kv_heads * (key_size + value_size) * 2,
        has_chat_template="tokenizer.chat_template" in values,
        pooling=_POOLINGS.get(number("pooling_type", 0)),
    )


def _last_tensor_offset(file: BinaryIO, tensors: int) -> int:
    """Where the last tensor begins, counted from the start of the data; `file` stands behind it."""
    last = 0
    for _ in range(tensors):
        _string(file)
        dimensions = _number(file, "<I")
        _skip(file, 8 * dimensions + 4)
        last = max(last, _number(file, "<Q"))
    return last


def _read_values(file: BinaryIO) -> tuple[dict[str, Value], int]:
    """The key-value pairs, and how many tensors follow."""
    version, tensors, count = struct.unpack("<IQQ", _exactly(file, 20))
    if version not in (2, 3) or max(tensors, count) > MAX_ITEMS:
        raise _BrokenError
    values: dict[str, Value] = {}
    for _ in range(count):
        key = _string(file)
        values[key] = _value(file, _number(file, "<I"))
    return values, tensors


def _value(file: BinaryIO, kind: int) -> Value:
    if kind in _SCALARS:
        return _number(file, _SCALARS[kind])
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        raise _BrokenError
    item_kind, count = struct.unpack("<IQ", _exactly(file, 12))
    if count > MAX_ITEMS:
        raise _BrokenError
    if item_kind in _SCALARS:
        _skip(file, count * struct.calcsize(_SCALARS[item_kind]))
        return None
    for _ in range(count):
        if item_kind == _STRING:
            _skip(file, _number(file, "<Q"))
        else:
            _value(file, item_kind)
    return None


def _number(file: BinaryIO, form: str) -> int:
    value: int = struct.unpack(form, _exactly(file, struct.calcsize(form)))[0]
    return value


def _string(file: BinaryIO) -> str:
    return _exactly(file, _number(file, "<Q")).decode()


def _skip(file: BinaryIO, size: int) -> None:
    _exactly(file, size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size > MAX_STRING_BYTES:
        raise _BrokenError
    data = file.read(size)
    if len(data) != size:
        raise _BrokenError
    return data
