"""How an engine is started: decisions, tested without one."""

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from api_server.errors import SetupError
from api_server.inference.in_process.gguf import GgufHead, read_head
from api_server.inference.memory import available_memory_bytes, free_memory_bytes
from api_server.local.plan import (
    GIB,
    EnginePlan,
    check_memory,
    context_per_slot,
    embedding_thread_count,
    flags_of,
    model_id_of,
    needed_bytes,
    restart_delay_seconds,
    thread_count,
)
from tests.gguf_head import gguf_head

LLAMA_8B = GgufHead(
    Path("8b.gguf"), 4_920_739_232, "llama", "8B", 131072, 131072, has_chat_template=True
)


def plan_of(model: Path, slots: int, context_tokens: int, **more: Any) -> EnginePlan:
    return EnginePlan("m", model, slots=slots, context_tokens=context_tokens, threads=1, **more)


def test_command_line_gives_the_total_context() -> None:
    arguments = plan_of(Path("/m.gguf"), 4, 2048).arguments(8080)
    assert arguments[arguments.index("--ctx-size") + 1] == "8192"
    assert arguments[arguments.index("--parallel") + 1] == "4"
    assert arguments[arguments.index("--cache-ram") + 1] == "256"
    assert [word for word in arguments if word.startswith("--")] == list(flags_of("text"))
    assert "--embeddings" not in arguments


def test_an_embedding_engine_takes_one_whole_text_of_each_slot_at_once() -> None:
    plan = plan_of(Path("/m.gguf"), 2, 512, serves="embeddings", pooling="cls")
    arguments = plan.arguments(8080)
    for flag, value in {
        "--ctx-size": "1024",
        "--parallel": "2",
        "--batch-size": "512",
        "--ubatch-size": "512",
        "--pooling": "cls",
    }.items():
        assert arguments[arguments.index(flag) + 1] == value
    assert [word for word in arguments if word.startswith("--")] == list(flags_of("embeddings"))
    assert "--embeddings" in arguments
    assert "--jinja" not in arguments


def test_an_8b_model_with_four_slots_needs_what_arithmetic_says() -> None:
    plan = plan_of(LLAMA_8B.path, 4, 4096)
    assert 7 < needed_bytes(LLAMA_8B, plan) / GIB < 7.3
    check_memory(LLAMA_8B, plan, 8 * GIB)
    with pytest.raises(SetupError, match=r"7\.1 GiB .* 6\.0 GiB are free.* local\.slots"):
        check_memory(LLAMA_8B, plan, 6 * GIB)


def test_an_embedding_model_that_does_not_fit_beside_the_chat_names_its_own_settings() -> None:
    plan = plan_of(LLAMA_8B.path, 2, 512, serves="embeddings")
    assert needed_bytes(LLAMA_8B, plan) < needed_bytes(LLAMA_8B, plan_of(LLAMA_8B.path, 2, 512))
    with pytest.raises(SetupError, match=r" 0\.0 GiB are free.* local\.embedding_slots"):
        check_memory(LLAMA_8B, plan, -GIB)


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 1), (16, 2), (64, 8)])
def test_the_embedding_engine_takes_few_threads(cores: int, expected: int) -> None:
    assert embedding_thread_count(cores) == expected


def test_context_is_never_more_than_the_model_was_trained_on() -> None:
    assert context_per_slot(LLAMA_8B, 4096) == 4096
    assert context_per_slot(LLAMA_8B, 10**6) == 131072


@pytest.mark.parametrize(
    ("wanted", "cores", "expected"), [(0, 2, 1), (0, 1, 1), (0, 8, 7), (3, 2, 3)]
)
def test_threads_leave_one_core_free(wanted: int, cores: int, expected: int) -> None:
    assert thread_count(wanted, cores) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama-3.3-8B-Instruct-Q4_K_M.gguf", "llama-3.3-8b-instruct-q4_k_m"),
        ("my model (1).gguf", "my-model--1"),
        ("模型.gguf", "model"),
    ],
)
def test_model_ids_come_from_file_names(name: str, expected: str) -> None:
    assert model_id_of(Path(name)) == expected


def test_restarts_back_off_and_stay_bounded() -> None:
    delays = [restart_delay_seconds(n) for n in range(1, 10)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restart_delay_seconds(10_000) == 30


@pytest.mark.parametrize(
    ("limit", "used", "stat", "expected"),
    [
        ("", "", "", 8_192_000),
        ("max\n", "5", "", 8_192_000),
        ("3000000\n", "1000000\n", "", 2_000_000),
        ("3000000\n", "1000000\n", "anon 1\ninactive_file 500000\n", 2_500_000),
    ],
)
def test_memory_is_what_machine_and_container_leave(
    limit: str, used: str, stat: str, expected: int
) -> None:
    meminfo = "MemTotal: 9 kB\nMemAvailable:    8000 kB\n"
    assert available_memory_bytes(meminfo, limit, used, stat) == expected
    assert free_memory_bytes() > 0


VALUES = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "bc", ""],
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.context_length": 8192,
    "tokenizer.chat_template": "x",
}


def test_head_of_a_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_head(VALUES, has_tensor=True) + bytes(64))
    head = read_head(path)
    assert head.kv_bytes_per_token == 128 * 1024
    assert head.context_tokens == 8192
    assert head.has_chat_template


@pytest.mark.parametrize(("number", "expected"), [(0, None), (1, "mean"), (2, "cls"), (9, None)])
def test_head_tells_how_an_embedding_model_pools(
    tmp_path: Path, number: int, expected: str | None
) -> None:
    path = tmp_path / "m.gguf"
    values = {"general.architecture": "bert", "bert.pooling_type": number}
    path.write_bytes(gguf_head(values))
    assert read_head(path).pooling == expected
    path.write_bytes(gguf_head({"general.architecture": "bert"}))
    assert read_head(path).pooling is None


def test_head_cut_anywhere_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = gguf_head(VALUES, has_tensor=True)
    for size in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(SetupError, match=r"m\.gguf"):
            read_head(path)


def test_head_of_random_bytes_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60) + b"\xff" * 1000)
    with pytest.raises(SetupError, match="damaged"):
        read_head(path)
    with pytest.raises(SetupError, match="is no file"):
        read_head(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SetupError, match="is no file"):
        read_head(tmp_path / "pipe")
    with pytest.raises(SetupError, match=r"cannot be read .*Check MODEL\."):
        read_head(tmp_path / "none")
    with pytest.raises(SetupError, match=r"cannot be read .*Check EMBEDDING_MODEL\."):
        read_head(tmp_path / "none", "EMBEDDING_MODEL")
