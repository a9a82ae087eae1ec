"""Decides how an engine is started: slots, context, memory, command line. Pure functions."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from api_server.errors import SetupError
from api_server.inference.in_process.gguf import GgufHead

COMPUTE_BYTES = 300 * 1024 * 1024
"""An allowance for the engine's buffers, beside weights and caches; on the careful side."""

PROMPT_CACHE_MIB = 256
COMMON_FLAGS = (
    "--model",
    "--alias",
    "--host",
    "--port",
    "--parallel",
    "--ctx-size",
    "--threads",
    "--metrics",
    "--slots",
    "--no-webui",
)
TEXT_FLAGS = ("--cache-ram", "--jinja")
EMBEDDING_FLAGS = ("--embeddings", "--pooling", "--batch-size", "--ubatch-size")
GIB = 1024**3


@dataclass(frozen=True)
class EnginePlan:
    """How one llama-server is started. `context_tokens` is what each slot gets.

    `pooling` says how an engine that serves embeddings makes one vector of a text's tokens.
    """

    model_id: str
    model_path: Path
    slots: int
    context_tokens: int
    threads: int
    serves: Literal["text", "embeddings"] = "text"
    pooling: str = "mean"

    @property
    def settings_prefix(self) -> str:
        """What the keys of its slots and its context begin with in the stack file."""
        return "local." if self.serves == "text" else "local.embedding_"

    def arguments(self, port: int) -> list[str]:
        """The command line after the binary. `--ctx-size` is the total over all slots."""
        given = {
            "--model": self.model_path,
            "--alias": self.model_id,
            "--host": "127.0.0.1",
            "--port": port,
            "--parallel": self.slots,
            "--ctx-size": self.slots * self.context_tokens,
            "--threads": self.threads,
            "--cache-ram": PROMPT_CACHE_MIB,
            "--pooling": self.pooling,
            # All of a text goes through the model at once, so a batch must hold the longest.
            "--batch-size": self.context_tokens,
            "--ubatch-size": self.context_tokens,
        }
        words: list[str] = []
        for flag in flags_of(self.serves):
            words += [flag, str(given[flag])] if flag in given else [flag]
        return words


def flags_of(serves: Literal["text", "embeddings"]) -> tuple[str, ...]:
    """Every flag that an engine gets that serves this; a foreign binary must understand them."""
    return COMMON_FLAGS + (TEXT_FLAGS if serves == "text" else EMBEDDING_FLAGS)


def context_per_slot(head: GgufHead, wanted_tokens: int) -> int:
    """No more than the model was trained on."""
    return min(wanted_tokens, head.context_tokens)


def thread_count(wanted: int, cores: int) -> int:
    """0 means one less than the cores: with all of them llama.cpp's barriers collapse."""
    return wanted or max(1, cores - 1)


def embedding_thread_count(cores: int) -> int:
    """An eighth of the cores: such a model is small, and the chat's engine needs the others."""
    return max(1, cores // 8)


def needed_bytes(head: GgufHead, plan: EnginePlan) -> int:
    """Weights, KV cache in 16 bits, prompt cache and buffers."""
    kv_bytes = head.kv_bytes_per_token * plan.slots * plan.context_tokens
    prompt_cache_bytes = PROMPT_CACHE_MIB * 1024 * 1024 if plan.serves == "text" else 0
    return head.file_bytes + kv_bytes + prompt_cache_bytes + COMPUTE_BYTES


def check_memory(head: GgufHead, plan: EnginePlan, available_bytes: int) -> None:
    """Raises `SetupError` with the numbers when the model would not fit."""
    needed = needed_bytes(head, plan)
    prefix = plan.settings_prefix
    if needed > available_bytes:
        raise SetupError(
            f"{head.path.name} needs about {needed / GIB:.1f} GiB of memory "
            f"({head.file_bytes / GIB:.1f} weights, the rest for {plan.slots} slots of "
            f"{plan.context_tokens} tokens), and {max(0, available_bytes) / GIB:.1f} GiB are free. "
            f"Take a smaller model, or lower {prefix}slots or {prefix}context_tokens in "
            "configs/stack.yaml."
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
