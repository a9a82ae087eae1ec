"""Every file of examples/ runs as its first lines say."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import MODEL_SECONDS
from tests.local_stack import REPOSITORY, LocalStack
from tests.run_homes import assistants_home

EXAMPLES = {
    "chat.py": ("Hello!\nMy name is Maria.\nWhat is my name?\n", "Your name is Maria."),
    "streaming.py": ("", "Paris"),
    "batch.py": ("", "Rome"),
    "tools.py": ("", "[add({"),
    "json_output.py": ("", "France: Paris"),
    "assistant.py": ("", "The result is 42."),
    "assistant_events.py": ("", "Your name is Maria."),
    "resume_run.py": ("", "in the thread now (completed): "),
    "conversation.py": ("", "[all of it is kept: GET /v1/threads/"),
}
WITH_EMBEDDINGS = {
    "embeddings.py": ["The bakery", "Trains to the airport", "borrow up to ten books"],
    "file_search.py": ["limits.md", "cache.md", "start.md"],
}
SOME_DOCS = ["docs/limits.md", "docs/cache.md", "docs/start.md"]


def run(stack: LocalStack, name: str, stdin: str = "", *arguments: str, seconds: int = 60) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"OPENAI_BASE_URL": f"{stack.url}/v1"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
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
    key = 'export OPENAI_API_KEY="$(cat .local/development.key)"'
    assert f"\n{key}\npython examples/{name}\n" in opening


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


def test_an_assistant_calls_functions_of_its_client(stack: LocalStack) -> None:
    printed = run(stack, "assistant.py")
    assert '[add({"a": 17, "b": 25}) -> 42]' in printed
    assert '[get_weather({"city": "Paris"}) -> ' in printed
    assert printed.count("[completed]") == 3


def test_a_handler_hears_every_event_of_a_run(stack: LocalStack) -> None:
    printed = run(stack, "assistant_events.py")
    assert printed.count("[thread.run.completed]") == 2
    assert printed.count("is completed]") == 2
    assert printed.count(" written]") == 2


def test_both_turns_of_a_conversation_are_in_its_thread(stack: LocalStack) -> None:
    *answers, kept = run(stack, "conversation.py").splitlines()
    thread = kept.split("/threads/")[1].split("/")[0]
    url = f"{stack.url}/v1/threads/{thread}/messages?order=asc"
    messages = httpx.get(url, timeout=10).json()["data"]
    texts = [message["content"][0]["text"]["value"] for message in messages]
    assert texts[::2] == ["My name is Maria.", "What is my name?"]
    assert texts[1::2] == answers


def test_a_stream_is_taken_up_where_it_was_left(stack: LocalStack) -> None:
    told, kept = run(stack, "resume_run.py").split("\nin the thread now (completed): ")
    pieces = [line for line in told.splitlines() if line and not line.startswith("[")]
    assert "".join(pieces) == kept.strip()


async def test_a_run_that_failed_is_resumed(tmp_path: Path, postgres_url: str) -> None:
    async with assistants_home(tmp_path, postgres_url) as home:
        home.engine.obey(fault="reset_in_stream", for_requests=1)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "examples/resume_run.py"),
            cwd=REPOSITORY,
            env=os.environ | {"OPENAI_BASE_URL": f"{home.url}/v1"},
            stdout=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    lines = output.decode().splitlines()
    assert process.returncode == 0
    assert lines.count("[thread.run.failed]") == 1
    assert any("can be resumed" in line for line in lines)
    assert lines[-1] == "in the thread now (completed): xxxxx"


@pytest.mark.timeout(MODEL_SECONDS + 120)
def test_sentences_are_found_by_meaning(embedding_stack: LocalStack) -> None:
    printed = run(embedding_stack, "embeddings.py")
    wanted = WITH_EMBEDDINGS["embeddings.py"]
    for line, expected in zip(printed.splitlines()[1::2], wanted, strict=True):
        assert expected in line


@pytest.mark.timeout(MODEL_SECONDS + 240)
def test_documents_are_found_and_read_by_a_run(embedding_stack: LocalStack) -> None:
    """Of a few files: all of docs/ takes a minute."""
    printed = run(embedding_stack, "file_search.py", "", *SOME_DOCS, seconds=200)
    assert "3 of 3 files taken in" in printed
    found = [part.splitlines()[0] for part in printed.split("?\n")[1:]]
    for line, expected in zip(found, WITH_EMBEDDINGS["file_search.py"], strict=True):
        assert expected in line
    # Of what it reads the tiny model makes words that sometimes find no end.
    ends = re.findall(r"in a run \((\w+)\) the model searched for itself", printed)
    assert len(ends) == 3, printed
    assert set(ends) <= {"completed", "incomplete"}, printed
    assert printed.count(".md: ") >= 12


def test_the_library_asks_every_model_without_a_gateway(stack: LocalStack) -> None:
    opening = (REPOSITORY / "examples/inference_library.py").read_text().split('"""')[1]
    assert "\n.venv/bin/python -m examples.inference_library  " in opening
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
    assert "\n.venv/bin/python -m examples.custom_handler\n" in opening
    done = subprocess.run(
        [sys.executable, "-m", "examples.custom_handler"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("IT WORKS LIKE THE OTHERS!\n", "")
