"""The code in docs/inference.md runs as it stands, cell by cell, and prints what the guide says."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine_probe import EngineProbe
from tests.local_stack import REPOSITORY, LocalStack

GUIDE = (REPOSITORY / "docs/inference.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def run_cell(code: str, line: int, namespace: dict[str, Any]) -> None:
    """Run some code that may `await`, as a notebook does."""
    tree = ast.parse("\n" * line + code, "docs/inference.md")
    compiled = compile(tree, "docs/inference.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, namespace)
    if inspect.isawaitable(result):
        await result


async def test_the_guide_tells_the_truth(
    stack: LocalStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with EngineProbe(stack) as probe:
        entry = {
            "id": "llama-3.3-8b-instruct",
            "replicas": [probe.url],
            "defaults": {"temperature": 0.0},
        }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/stack.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGINE_API_KEY", stack.engine_key())
    monkeypatch.delenv("STACK_CONFIG", raising=False)
    namespace: dict[str, Any] = {"__name__": "guide"}
    cells = 0
    for block in BLOCKS.finditer(GUIDE):
        language, text = block.groups()
        if language == "python":
            unseen = capsys.readouterr().out  # of a cell whose output the guide does not show
            assert unseen == ""
            await run_cell(text, GUIDE[: block.start(2)].count("\n"), namespace)
            cells += 1
        else:
            assert capsys.readouterr().out.strip() == text.strip()
    assert cells >= 9


def test_every_block_is_code_or_what_it_prints() -> None:
    assert {block[1] for block in BLOCKS.finditer(GUIDE)} == {"python", "text"}
    assert GUIDE.count("```") == 2 * len(BLOCKS.findall(GUIDE))
