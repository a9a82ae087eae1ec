"""Every file of examples/ runs as its first lines say."""

import os
import subprocess
import sys

import pytest

from tests.local_stack import REPOSITORY, LocalStack

EXAMPLES = {
    "chat.py": ("Hello!\nMy name is Maria.\nWhat is my name?\n", "Your name is Maria."),
    "streaming.py": ("", "Paris"),
    "batch.py": ("", "Rome"),
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (REPOSITORY / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(stack: LocalStack, name: str) -> None:
    stdin, expected = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, f"examples/{name}"],
        cwd=REPOSITORY,
        env=os.environ | {"OPENAI_BASE_URL": f"{stack.url}/v1"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
