"""Reads from a model's own files what it takes in memory, without loading it."""

from pathlib import Path

from api_server.errors import SetupError
from api_server.inference.in_process.gguf import read_head
from api_server.inference.in_process.hugging_face import read_folder
from api_server.planning.flags import is_gguf
from api_server.planning.sizing import ModelSize


def measure(path: Path, dtype: str = "auto") -> ModelSize:
    """A GGUF file's, or that of a folder in Hugging Face's form.

    dtype: what a folder's weights are converted to when loaded. Raises `SetupError`.
    """
    if is_gguf(path.name):
        head = read_head(path, "MODEL_FILE")
        return _size(head.file_bytes, head.kv_bytes_per_token, head.context_tokens)
    folder = read_folder(path, path.name, dtype)
    # The folder counts its cache in the precision of its weights.
    per_token = folder.kv_bytes_per_token // (2 if dtype == "float32" else 1)
    return _size(folder.weight_bytes, per_token, folder.context_tokens)


def _size(weight_bytes: int, kv_bytes_per_token: int, trained_tokens: int) -> ModelSize:
    if kv_bytes_per_token <= 0:
        raise SetupError(
            "The model does not say how large its contexts are (layers, heads, their size). "
            "Choose another file of it."
        )
    return ModelSize(weight_bytes, kv_bytes_per_token, trained_tokens, is_measured=True)
