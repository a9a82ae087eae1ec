"""The real llama-server takes the planned flags, and is then what was planned."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api_server.local.process import free_port
from api_server.planning.flags import LlamaCppPlan, llama_cpp_flags
from api_server.planning.model_size import measure
from api_server.planning.planner import Machine, ModelNames, plan_llama_cpp
from api_server.planning.sizing import Shape
from api_server.settings.engine_file import EngineConfig
from tests.local_stack import REPOSITORY

MODELS = REPOSITORY / "models/tiny"
MODEL = "tiny-q8_0.gguf"
START_SECONDS = 60
BUILD_SECONDS = 45 * 60


@pytest.fixture(scope="module")
def server() -> str:
    """The path of llama-server; the first time on a machine it is compiled."""
    found = subprocess.run(
        [sys.executable, "-m", "api_server", "engine"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=True,
    )
    return found.stdout.strip()


@contextmanager
def running(server: str, flags: list[str], folder: Path) -> Iterator[str]:
    """llama-server with these flags, healthy; its address."""
    port = free_port()
    words = [server, "--model", str(MODELS / MODEL), "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "engine.log"
    with log.open("w") as output:
        process = subprocess.Popen([*words, *flags], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        url = f"http://127.0.0.1:{port}"
        while not _is_healthy(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def told(url: str) -> tuple[int, int]:
    """Slots, and the context of each, by the engine's own word."""
    props = httpx.get(f"{url}/props", timeout=5).raise_for_status().json()
    return props["total_slots"], props["default_generation_settings"]["n_ctx"]


def known_flags(server: str) -> set[str]:
    text = subprocess.run(
        [server, "--help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    heads = [line[:40] for line in text.splitlines() if line.startswith("-")]
    return {flag for head in heads for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", head)}


def test_every_flag_stands_in_its_help(server: str) -> None:
    known = known_flags(server)
    assert "--parallel" in known
    shape = Shape(32, 4096, "q8_0")
    for plan in (LlamaCppPlan(shape, 2048), LlamaCppPlan(shape, 0, threads=3)):
        flags = [word for word in llama_cpp_flags(plan) if word.startswith("-")]
        assert set(flags) <= known
        assert not {flag for flag in flags if re.match(r"--(tools|agent|mcp|props)", flag)}


CONFIGS: list[dict[str, Any]] = [
    {},
    {
        "batching": {"max_batch_size": 3},
        "inference": {"context_length": 768},
        "memory": {"kv_cache_type": "q8_0", "prompt_cache_mib": 0},
    },
]


@pytest.mark.parametrize("sections", CONFIGS, ids=["auto", "numbers"])
def test_the_engine_is_what_was_planned(
    server: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    config = EngineConfig.model_validate(sections)
    names = ModelNames("tiny", MODEL)
    planned = plan_llama_cpp(config, measure(MODELS / MODEL), names, Machine((), 16_000, 2))
    values = planned.values
    with running(server, values["LLAMA_CPP_FLAGS"].split(), tmp_path) as url:
        assert told(url) == (int(values["ENGINE_SLOTS"]), int(values["ENGINE_CONTEXT_TOKENS"]))
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
        assert answer.raise_for_status().json()["usage"]["completion_tokens"] > 0
        assert httpx.get(f"{url}/slots", timeout=5).status_code == 200
        assert httpx.get(f"{url}/metrics", timeout=5).status_code == 200


def test_the_flags_of_a_gpu_but_for_its_layers_start_32_slots(server: str, tmp_path: Path) -> None:
    flags = llama_cpp_flags(LlamaCppPlan(Shape(32, 1024, "q8_0"), 256))
    with running(server, [*flags, "--threads", "1"], tmp_path) as url:
        assert told(url) == (32, 1024)


def test_it_rounds_contexts_that_are_no_multiple_of_256(server: str, tmp_path: Path) -> None:
    """Why those are an error."""
    flags = llama_cpp_flags(LlamaCppPlan(Shape(2, 1000, "f16"), 0, threads=1))
    with running(server, flags, tmp_path) as url:
        assert told(url) == (2, 1024)


def test_it_cuts_contexts_beyond_the_training(server: str, tmp_path: Path) -> None:
    """Why those are an error."""
    flags = llama_cpp_flags(LlamaCppPlan(Shape(2, 4096, "f16"), 0, threads=1))
    with running(server, flags, tmp_path) as url:
        assert told(url) == (2, measure(MODELS / MODEL).trained_tokens)


def test_without_planned_flags_the_engine_of_the_compose_file_stops(server: str) -> None:
    text = (REPOSITORY / "docker-compose.yaml").read_text(encoding="utf-8")
    command = yaml.safe_load(text)["services"]["llama-cpp"]["command"]
    default = re.search(r"\$\{LLAMA_CPP_FLAGS:-([^}]*)\}", command)
    assert default is not None
    ended = subprocess.run(
        [server, default[1]], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode != 0
    assert "make-start" in ended.stderr + ended.stdout
