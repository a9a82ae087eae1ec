"""The tiny model's evaluation: when an answer counts as right, well-formed promises."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.tiny import evaluate


def _calling(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}


def test_contains_ignores_case() -> None:
    assert evaluate.keeps({"content": "It is PARIS."}, {"contains": "paris"})


def test_every_part_must_be_contained() -> None:
    assert not evaluate.keeps({"content": "sunny"}, {"contains": ["sunny", "21"]})


def test_a_call_does_not_keep_a_promise_of_text() -> None:
    assert not evaluate.keeps(_calling("weather", {}), {"contains": ""})


@pytest.mark.parametrize(("city", "kept"), [("Rome", True), ("Oslo", False)])
def test_a_call_must_have_the_promised_arguments(city: str, *, kept: bool) -> None:
    case = {"tool_call": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert evaluate.keeps(_calling("weather", {"city": city}), case) is kept


def test_every_promise_has_a_question_and_an_expectation() -> None:
    for _, case in evaluate.promised():
        assert case["messages"][-1]["role"] in {"user", "tool"}
        assert ("contains" in case) != ("tool_call" in case)


def test_card_lists_every_promise() -> None:
    """The table of models/tiny/README.md is that of promises.yaml."""
    folder = Path(__file__).resolve().parents[2] / "models/tiny"
    classes = yaml.safe_load((folder / "promises.yaml").read_text())["classes"]
    card = (folder / "README.md").read_text()
    for name, kind in classes.items():
        count = len(kind["cases"])
        assert f"| {name:<16} | {count:>5} | {count:>5} |  100.0 |" in card, name
