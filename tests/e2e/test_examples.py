"""Every file of examples/ runs as its first lines say."""

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import MODEL_SECONDS
from tests.local_stack import REPOSITORY, LocalStack

EXAMPLES = {
    "chat.py": ("Hello!\nMy name is Maria.\nWhat is my name?\n", "Your name is Maria."),
    "streaming.py": ("", "Paris"),
    "batch.py": ("", "Rome"),
    "tools.py": ("", "[add({"),
    "json_output.py": ("", "France: Paris"),
}
WITH_EMBEDDINGS = {
    "embeddings.py": ["The bakery", "Trains to the airport", "borrow up to ten books"]
}


def run(stack: LocalStack, name: str, stdin: str = "") -> str:
    """What an example prints."""
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
    return done.stdout


def test_every_example_is_tested() -> None:
    found = {path.name for path in (REPOSITORY / "examples").glob("*.py")}
    alone = {"inference_library.py", "custom_handler.py", "export_assistants.py"}
    assert found == EXAMPLES.keys() | WITH_EMBEDDINGS.keys() | alone


@pytest.mark.parametrize("name", [*EXAMPLES, *WITH_EMBEDDINGS])
def test_example_says_first_how_to_run_it(name: str) -> None:
    opening = (REPOSITORY / "examples" / name).read_text().split('"""')[1]
    start = "make local EMBEDDINGS=on  " if name in WITH_EMBEDDINGS else "make local  "
    assert f"\n{start}" in opening
    assert f"\npython examples/{name}\n" in opening


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(stack: LocalStack, name: str) -> None:
    stdin, expected = EXAMPLES[name]
    assert expected in run(stack, name, stdin)


def test_tools_are_called_and_their_results_told(stack: LocalStack) -> None:
    printed = run(stack, "tools.py")
    assert '[add({"a": 17, "b": 25}) -> 42]' in printed
    assert printed.count("42") == 2
    assert '[get_weather({"city": "Paris"}) -> ' in printed
    assert "sunny" in printed.split("-> ")[2].split("]")[1]
    assert "How can I help you?" in printed


@pytest.mark.timeout(MODEL_SECONDS + 120)
@pytest.mark.parametrize("name", WITH_EMBEDDINGS)
def test_example_with_embeddings_runs(embedding_stack: LocalStack, name: str) -> None:
    printed = run(embedding_stack, name)
    for line, expected in zip(printed.splitlines()[1::2], WITH_EMBEDDINGS[name], strict=True):
        assert expected in line


def test_the_library_asks_every_model_without_a_gateway(stack: LocalStack) -> None:
    opening = (REPOSITORY / "examples/inference_library.py").read_text().split('"""')[1]
    assert "\npython -m examples.inference_library  " in opening
    done = subprocess.run(
        [sys.executable, "-m", "examples.inference_library"],
        cwd=REPOSITORY,
        env=os.environ
        | {"STACK_CONFIG": str(stack.data_dir / "stack.yaml")}
        | {"ENGINE_API_KEY": stack.engine_key()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "tiny: The capital of France is Paris. [stop]",
        "The| capital| of| Fran|ce| is| P|ar|is|.|",
        "The capital of [stop_sequence]",
    ]


def test_a_handler_of_ones_own_needs_no_engine() -> None:
    opening = (REPOSITORY / "examples/custom_handler.py").read_text().split('"""')[1]
    assert "\npython -m examples.custom_handler\n" in opening
    done = subprocess.run(
        [sys.executable, "-m", "examples.custom_handler"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("IT WORKS LIKE THE OTHERS!\n", "")
