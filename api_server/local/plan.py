"""Decides how an engine is started: slots, context, memory, command line. Pure functions."""

import string
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.gguf import GgufHead

COMPUTE_BYTES = 300 * 1024 * 1024
"""An allowance for the engine's buffers, beside weights and caches; on the careful side."""

PROMPT_CACHE_MIB = 256
VALUE_FLAGS = (
    "--model",
    "--alias",
    "--host",
    "--port",
    "--parallel",
    "--ctx-size",
    "--threads",
    "--cache-ram",
)
SWITCHES = ("--jinja", "--metrics", "--slots", "--no-webui")
FLAGS = (*VALUE_FLAGS, *SWITCHES)
"""Every flag that we pass, which a foreign binary must understand."""

GIB = 1024**3


@dataclass(frozen=True)
class EnginePlan:
    """How one llama-server is started. `context_tokens` is what each slot gets."""

    model_id: str
    model_path: Path
    slots: int
    context_tokens: int
    threads: int

    def arguments(self, port: int) -> list[str]:
        """The command line after the binary. `--ctx-size` is the total over all slots."""
        values = (
            self.model_path,
            self.model_id,
            "127.0.0.1",
            port,
            self.slots,
            self.slots * self.context_tokens,
            self.threads,
            PROMPT_CACHE_MIB,
        )
        pairs = zip(VALUE_FLAGS, values, strict=True)
        return [word for flag, value in pairs for word in (flag, str(value))] + list(SWITCHES)


def context_per_slot(head: GgufHead, wanted_tokens: int) -> int:
    """No more than the model was trained on."""
    return min(wanted_tokens, head.context_tokens)


def thread_count(wanted: int, cores: int) -> int:
    """0 means one less than the cores: with all of them llama.cpp's barriers collapse."""
    return wanted or max(1, cores - 1)


def needed_bytes(head: GgufHead, slots: int, context_tokens: int) -> int:
    """Weights, KV cache in 16 bits, prompt cache and buffers."""
    kv_bytes = head.kv_bytes_per_token * slots * context_tokens
    return head.file_bytes + kv_bytes + PROMPT_CACHE_MIB * 1024 * 1024 + COMPUTE_BYTES


def check_memory(head: GgufHead, slots: int, context_tokens: int, available_bytes: int) -> None:
    """Raises `SetupError` with the numbers when the model would not fit."""
    needed = needed_bytes(head, slots, context_tokens)
    if needed > available_bytes:
        raise SetupError(
            f"{head.path.name} needs about {needed / GIB:.1f} GiB of memory "
            f"({head.file_bytes / GIB:.1f} weights, the rest for {slots} slots of "
            f"{context_tokens} tokens), and {available_bytes / GIB:.1f} GiB are free. Take a "
            "smaller model, or lower local.slots or local.context_tokens in configs/stack.yaml."
        )


def model_id_of(path: Path) -> str:
    """The name clients use for a file: its stem in lower case, without odd characters."""
    stem = path.stem.lower()
    kept = string.ascii_lowercase + string.digits + "._-"
    cleaned = "".join(char if char in kept else "-" for char in stem)
    return cleaned.strip("-._")[:100] or "model"


def restart_delay_seconds(crashes: int) -> float:
    """0.5, 1, 2, ... 30 s before the next start of a child that keeps dying."""
    return 30.0 if crashes > 6 else 0.5 * 2.0 ** max(0, crashes - 1)
