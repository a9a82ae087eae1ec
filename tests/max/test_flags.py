"""The flags of `python -m api_server plan` for MAX, and why some keys are refused: asked of MAX.

That they start it on the CPU, the other tests of this folder show: their engine has them.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from api_server.planning.flags import (
    MAX_GGUF_ON_CPU,
    MAX_GGUF_ON_GPU,
    Device,
    MaxPlan,
    max_flags,
)
from api_server.planning.max_sizing import MaxShape
from tests.max.engine import Installed

SHAPE = MaxShape(32, 8192, 46_000)
QUIET = {"HF_HUB_OFFLINE": "1", "OTEL_SDK_DISABLED": "true"}
SECONDS = 120


@pytest.fixture(scope="module")
def flags_in_help(installed: Installed) -> set[str]:
    done = subprocess.run(
        [installed.program("max"), "serve", "--help"],
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    heads = [line for line in done.stdout.splitlines() if line.startswith("  --")]
    return {flag for head in heads for flag in re.findall(r"--[a-z][a-z0-9-]*", head)}


@pytest.mark.parametrize(
    ("device", "model"), [("gpu", "llama"), ("cpu", "llama"), ("cpu", "llama-q4_k_m.gguf")]
)
def test_every_flag_stands_in_its_help(flags_in_help: set[str], device: Device, model: str) -> None:
    flags = max_flags(MaxPlan(SHAPE, device, model, "llama", "tokenizer"))
    assert {word for word in flags if word.startswith("--")} <= flags_in_help


def test_its_flag_for_a_window_is_read_by_nothing(
    installed: Installed, flags_in_help: set[str]
) -> None:
    """Why max_wait_time_ms is refused. If this fails, it can be honoured."""
    assert "--ce-delay-ms" in flags_in_help
    package = next((installed.home / "lib").glob("python3*/site-packages/max"))
    naming = [file for file in package.rglob("*") if file.is_file() and _names_it(file)]
    assert [file.name for file in naming] == ["pipeline_runtime_config.py"]
    assert naming[0].read_text().count("ce_delay_ms") == 1


def _names_it(file: Path) -> bool:
    return file.suffix != ".pyc" and b"ce_delay_ms" in file.read_bytes()


def test_what_forms_of_gguf_it_runs_where(installed: Installed) -> None:
    code = (
        "import json; from max.pipelines.modeling import config_enums as c; "
        "print(json.dumps(c._SUPPORTED_DEVICES))"
    )
    done = subprocess.run(
        [installed.program("python"), "-c", code],
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    devices: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    for encoding in MAX_GGUF_ON_CPU.values():
        assert "cpu" in devices[encoding]
    for encoding in ("q4_k", "q4_0", "q6_k"):
        assert devices[encoding] == ["cpu"]
    for encoding in MAX_GGUF_ON_GPU.values():
        assert devices[encoding] == ["gpu"]
