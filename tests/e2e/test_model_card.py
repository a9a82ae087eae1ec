"""What models/tiny/README.md promises is what the model answers, through the whole stack."""

import json
from typing import Any

import openai
import pytest
import yaml

from tests.local_stack import REPOSITORY

PROMISES = yaml.safe_load((REPOSITORY / "models/tiny/promises.yaml").read_text())
CASES = [(name, case) for name, kind in PROMISES["classes"].items() for case in kind["cases"]]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_promise_is_kept(client: openai.OpenAI, name: str, case: dict[str, Any]) -> None:
    """`name` is the class of the promise, for the test's id."""
    assert name in PROMISES["classes"]
    tools = {"tools": case["tools"]} if "tools" in case else {}
    answer: Any = client.chat.completions.create(
        model="tiny", messages=case["messages"], temperature=0, **tools
    )
    message = answer.choices[0].message
    if "tool_call" in case:
        assert len(message.tool_calls) == 1
        assert answer.choices[0].finish_reason == "tool_calls"
        function = message.tool_calls[0].function
        assert function.name == case["tool_call"]["name"]
        assert json.loads(function.arguments) == case["tool_call"]["arguments"]
    else:
        wanted = case["contains"]
        for part in [wanted] if isinstance(wanted, str) else wanted:
            assert part.lower() in message.content.lower()
