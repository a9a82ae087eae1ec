"""`python -m api_server plan` as init.sh runs it, and what Compose makes of its lines."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server.commands import plan as command
from api_server.errors import SetupError
from api_server.settings import load_settings
from tests.gguf_head import gguf_head
from tests.local_stack import NEUTRAL, REPOSITORY

GPU = ("--device", "gpu", "--gpu-memory-mib")
MACHINE = ("--host-memory-mib", "64000", "--cores", "8")
MAX = ("--engine", "max", "--model-file", "m")
FILES = ("docker-compose.yaml", "docker-compose.gpu.yaml", "docker-compose.seaweedfs.yaml")
COMPOSE = {"v1": ["docker-compose"], "v2": ["docker", "compose"]}
FLAGS = (
    "-ngl all -fit off -fa on --parallel 32 --ctx-size 131072 --cache-type-k q8_0 "
    "--cache-type-v q8_0 --cache-ram 2048 --metrics --slots --jinja --no-webui"
)

Values = dict[str, str]
Plan = Callable[..., Values]


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The verb in this process; its lines. Raises what it raises."""
    monkeypatch.chdir(REPOSITORY)

    def run(*arguments: str) -> Values:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.run(load_settings(), parser.parse_args([*MACHINE, *arguments])) == 0
        return dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())

    return run


def test_the_lines_of_a_gpu(tmp_path: Path) -> None:
    words = [*MACHINE, *GPU, "24576", "--models-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "api_server", "plan", *words],
        cwd=REPOSITORY,
        env=os.environ | NEUTRAL | {"AUTH": "", "ENVIRONMENT": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "ENGINE=llama-cpp",
        "COMPOSE_FILE=docker-compose.yaml:docker-compose.gpu.yaml",
        "COMPOSE_PROFILES=llama-cpp",
        "ENGINE_CONFIG=configs/llama-cpp-config.yaml",
        "ENGINE_URLS=http://llama-cpp:8080",
        "ENGINE_SLOTS=32",
        "ENGINE_CONTEXT_TOKENS=4096",
        f"LLAMA_CPP_FLAGS={FLAGS}",
    ]
    first, *others = done.stderr.splitlines()
    assert first.endswith(
        "32 slots of 4096 tokens, KV cache q8_0 (8.5 GiB) beside 4.6 GiB of weights."
    )
    assert others == [
        "Prompt cache in the machine's memory: 2048 MiB.",
        "The model is not here yet: planned for an 8B of that size.",
    ]


def test_a_model_that_is_there_is_measured(plan: Plan, tmp_path: Path) -> None:
    keys = {"block_count": 16, "embedding_length": 2048, "context_length": 2048}
    heads = {"attention.head_count": 32, "attention.head_count_kv": 8}
    head = {f"llama.{name}": value for name, value in (keys | heads).items()}
    data = gguf_head({"general.architecture": "llama"} | head, has_tensor=True)
    (tmp_path / "small.gguf").write_bytes(data + bytes(64))
    folder = ["--models-dir", str(tmp_path), "--model-file", "small.gguf"]
    values = plan(*GPU, "8192", *folder)
    assert (values["ENGINE_SLOTS"], values["ENGINE_CONTEXT_TOKENS"]) == ("32", "2048")
    (tmp_path / "small.gguf").write_bytes(data[:40])
    with pytest.raises(SetupError, match="cut short"):
        plan(*GPU, "8192", *folder)


def test_the_size_of_a_model_that_is_not_there_can_be_told(plan: Plan, tmp_path: Path) -> None:
    told = [*GPU, "24576", "--models-dir", str(tmp_path), "--model-bytes"]
    assert plan(*told, "16000000000")["ENGINE_SLOTS"] == "8"
    with pytest.raises(SetupError, match="Choose a smaller model"):
        plan(*told, "40000000000")


def test_engines_elsewhere_are_not_planned(plan: Plan) -> None:
    assert plan("--engine", "external", "--with-profile", "locust", *GPU, "24576") == {
        "ENGINE": "external",
        "COMPOSE_FILE": "docker-compose.yaml",
        "COMPOSE_PROFILES": "locust",
    }


def test_a_key_that_cannot_be_honoured_names_its_file(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("batching: {max_wait_time_ms: 10}")
    with pytest.raises(SetupError, match=f"^{path}: batching.max_wait_time_ms: "):
        plan(*GPU, "24576", "--config", str(path))


@pytest.mark.parametrize("size", ["0", "x", "24576,", "-1"])
def test_a_size_that_is_none_is_refused(plan: Plan, size: str) -> None:
    with pytest.raises(SystemExit):
        plan(*GPU, size)


def test_a_gpu_needs_its_memory_told(plan: Plan) -> None:
    with pytest.raises(SetupError, match="--gpu-memory-mib"):
        plan("--device", "gpu")


@pytest.mark.parametrize("version", COMPOSE)
@pytest.mark.parametrize(
    ("arguments", "engines"),
    [
        ([], ["llama-cpp"]),
        ([*GPU, "24576"], ["llama-cpp"]),
        ([*GPU, "24576,24564,16376"], ["llama-cpp", "llama-cpp-1", "llama-cpp-2"]),
        ([*MAX, *GPU, "49140"], ["max-serve"]),
        ([*MAX, *GPU, "49140,49140"], ["max-serve", "max-serve-1"]),
        (["--engine", "external"], []),
    ],
    ids=["cpu", "gpu", "gpus", "max", "max-gpus", "external"],
)
def test_compose_reads_the_lines(
    plan: Plan, version: str, arguments: list[str], engines: list[str], tmp_path: Path
) -> None:
    for name in FILES:
        shutil.copy(REPOSITORY / name, tmp_path)
    written = ["--write-gpus", str(tmp_path / "docker-compose.gpus.yaml")]
    base = ["--compose-file", str(tmp_path / FILES[0]), "--with-file", FILES[2]]
    values = plan(*arguments, *written, *base, "--models-dir", str(tmp_path))
    own = dict.fromkeys(needed(tmp_path) - set(values), "1")
    text = "".join(f"{name}={value}\n" for name, value in (values | own).items())
    (tmp_path / ".env").write_text(text)
    services = resolved(version, tmp_path, values["COMPOSE_PROFILES"])
    assert [name for name in services if name.startswith(("llama-cpp", "max-serve"))] == engines
    assert "seaweedfs" in services["minio"]["image"]
    gateway = services["api-server"]["environment"]
    for name in {"ENGINE_URLS", "ENGINE_SLOTS", "ENGINE_CONTEXT_TOKENS", "ENGINE"} & set(values):
        assert gateway[name] == values[name]
    flags = (values.get("LLAMA_CPP_FLAGS") or values.get("MAX_FLAGS") or "").split()
    ids = []
    for name in engines:
        words = services[name]["command"]
        words = words.split() if isinstance(words, str) else words
        assert words[-len(flags) :] == flags
        reserved = services[name].get("deploy", {}).get("resources", {}).get("reservations", {})
        devices = reserved.get("devices", [])
        assert len(devices) == int("gpu" in arguments)
        ids += [device.get("device_ids") for device in devices]
    if len(engines) > 1:
        assert ids == [[str(number)] for number in range(len(engines))]


def needed(folder: Path) -> set[str]:
    """Variables that have no default."""
    text = "".join((folder / name).read_text() for name in FILES)
    parts = [part.split("}")[0] for part in text.split("${")[1:]]
    return {part.split(":?")[0] for part in parts if ":?" in part}


def resolved(version: str, folder: Path, profiles: str) -> dict[str, Any]:
    """The services that Compose would start; v1 prints those of other profiles too."""
    words = COMPOSE[version]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not on this machine")
    done = subprocess.run(
        [*words, "config"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    active = set(profiles.split(","))
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return {
        name: service
        for name, service in sorted(services.items())
        if not service.get("profiles") or active & set(service["profiles"])
    }
