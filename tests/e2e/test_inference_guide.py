"""The code in docs/inference.md runs as it stands, cell by cell, and prints what the guide says."""

import ast
import inspect
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
from tests.local_stack import REPOSITORY

GUIDE = (REPOSITORY / "docs/inference.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def run_cell(code: str, line: int, namespace: dict[str, Any]) -> None:
    """Run some code that may `await`, as a notebook does."""
    tree = ast.parse("\n" * line + code, "docs/inference.md")
    compiled = compile(tree, "docs/inference.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, namespace)
    if inspect.isawaitable(result):
        await result


@contextmanager
def running(command: str) -> Iterator[str]:
    """The engine that the guide starts, on a port of our own; its URL."""
    port = free_port()
    assert command.count(" 8080") == command.count(".venv/bin/python") == 1
    command = command.replace(" 8080", f" {port}").replace(".venv/bin/python", sys.executable)
    engine = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while not _is_well(url):
            assert engine.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        engine.kill()
        engine.wait()


def _is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def engine_url() -> Iterator[str]:
    (command,) = (block[2] for block in BLOCKS.finditer(GUIDE) if block[1] == "sh")
    with running(command) as url:
        yield url


@pytest.mark.usefixtures("stack")  # which has made the engine's program
async def test_the_guide_tells_the_truth(
    engine_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = yaml.safe_load((REPOSITORY / "configs/stack.yaml").read_text(encoding="utf-8"))
    (entry,) = shipped["models"]
    assert entry["replicas"] == ["http://127.0.0.1:8080"]
    entry |= {"replicas": [engine_url], "defaults": {"temperature": 0.0}}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/stack.yaml").write_text(yaml.safe_dump(shipped))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STACK_CONFIG", raising=False)
    namespace: dict[str, Any] = {"__name__": "guide"}
    cells = 0
    for block in BLOCKS.finditer(GUIDE):
        language, text = block.groups()
        if language == "sh":
            continue
        if language == "python":
            unseen = capsys.readouterr().out  # of a cell whose output the guide does not show
            assert unseen == ""
            await run_cell(text, GUIDE[: block.start(2)].count("\n"), namespace)
            cells += 1
        else:
            assert capsys.readouterr().out.strip() == text.strip()
    assert cells >= 9


def test_every_block_is_code_or_what_it_prints() -> None:
    assert {block[1] for block in BLOCKS.finditer(GUIDE)} == {"python", "text", "sh"}
    assert GUIDE.count("```") == 2 * len(BLOCKS.findall(GUIDE))
