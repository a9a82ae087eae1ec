"""examples/inference_library.py asks models of each kind that runs in this process."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.extras.conftest import SHIPPED
from tests.local_stack import REPOSITORY

TINY = [
    "The capital of France is Paris. [stop]",
    "The| capital| of| Fran|ce| is| P|ar|is|.|",
    "The capital of [stop_sequence]",
]


def test_the_library_asks_every_kind_of_model_in_this_process(folder: Path, tmp_path: Path) -> None:
    greedy = {"load": "on_demand", "defaults": {"temperature": 0}}
    models = [
        {"id": "tiny-hf", "engine": "transformers", "path": str(folder), **greedy},
        {"id": "tiny-gguf", "engine": "llama-cpp", "path": str(SHIPPED), **greedy},
        {
            "id": "shout",
            "engine": "custom",
            "handler": "examples.custom_handler:ShoutHandler",
        },
    ]
    stack = tmp_path / "stack.yaml"
    stack.write_text(yaml.safe_dump({"models": models}))
    done = subprocess.run(
        [sys.executable, "-m", "examples.inference_library"],
        cwd=REPOSITORY,
        env=os.environ | {"STACK_CONFIG": str(stack)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, pieces, cut = TINY
    loud = ["WHAT ", "IS ", "THE ", "CAPITAL ", "OF ", "FRANCE?", "!"]
    assert done.stdout.splitlines() == [
        *(f"tiny-hf: {answer}", pieces, cut),
        *(f"tiny-gguf: {answer}", pieces, cut),
        *(f"shout: {''.join(loud)} [stop]", "|".join(loud) + "|", f"{''.join(loud)}[stop]"),
    ]
