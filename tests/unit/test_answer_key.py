"""Which requests may share an answer, and which never do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api_server.inference.catalogue import Model
from api_server.inference.engines import ENGINES, LLAMA_SERVER
from api_server.services.answer_cache.key import is_deterministic, key_of, revision_of
from api_server.services.requests import Generation, parse_chat, parse_text

MODEL = Model(id="m", engine=LLAMA_SERVER, replicas=("http://127.0.0.1:1",))
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0,
}


def chat(**fields: Any) -> Generation:
    return parse_chat(json.dumps(CHAT | fields).encode())


def digest(generation: Generation, app: str = "app_a", revision: str = "1") -> str:
    return key_of(generation, app, revision).digest


@pytest.mark.parametrize(
    ("fields", "defaults", "expected"),
    [
        ({}, {}, True),
        ({"temperature": 0.0}, {}, True),
        ({"temperature": 0.7}, {}, False),
        ({"temperature": None}, {}, False),
        ({"temperature": None}, {"temperature": 0.0}, True),
        ({"temperature": 0.7}, {"temperature": 0.0}, False),
        ({"temperature": 1, "seed": 7}, {}, True),
        ({"temperature": 1, "seed": 0}, {}, True),
        ({"temperature": 1, "seed": None}, {}, False),
        ({"temperature": 1}, {"seed": 3}, True),
    ],
)
def test_deterministic_is_temperature_0_or_a_seed_as_it_applies(
    fields: dict[str, Any], defaults: dict[str, float], expected: bool
) -> None:
    assert is_deterministic(chat(**fields), replace(MODEL, defaults=defaults)) is expected


def test_what_changes_no_answer_does_not_count() -> None:
    plain = digest(chat())
    assert digest(chat(stream=True, stream_options={"include_usage": True})) == plain
    assert digest(chat(user="me", metadata={"a": "b"}, top_p=None)) == plain


def test_the_order_of_fields_does_not_count_at_any_depth() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": {}, "b": {}}}}
    turned = {"function": {"parameters": {"b": {}, "a": {}}, "name": "f"}, "type": "function"}
    one = parse_chat(json.dumps({**CHAT, "tools": [tool], "seed": 1}).encode())
    other = parse_chat(json.dumps({"seed": 1, "tools": [turned], **CHAT}, indent=3).encode())
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "ho"}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}] * 2},
        {"n": 2},
        {"max_tokens": 5},
        {"seed": 1},
        {"stop": "x"},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"grammar": "root ::= [a-z]"},
        {"a_field_of_tomorrow": 1},
    ],
)
def test_every_other_field_counts(fields: dict[str, Any]) -> None:
    assert digest(chat(**fields)) != digest(chat())


def test_another_app_another_route_another_revision_have_other_answers() -> None:
    text = parse_text(b'{"model": "m", "prompt": "hi", "temperature": 0}')
    digests = {
        digest(chat()),
        digest(chat(), app="app_b"),
        digest(chat(), revision="2"),
        digest(text),
    }
    bounded = chat()
    bounded.most_tokens = 5  # by the app's policy
    digests.add(digest(bounded))
    assert len(digests) == 5
    assert key_of(chat(), "app_b", "1").app_id == "app_b"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"engine": ENGINES["vllm"]},
        {"name_at_engine": "Llama"},
        {"replicas": ("http://127.0.0.1:2",)},
        {"path": Path("model.gguf")},
        {"defaults": {"temperature": 0.0}},
        {"max_output_tokens": 7},
        {"max_input_tokens": 7},
        {"options": {"threads": 2}},
    ],
)
def test_a_models_revision_changes_with_its_entry(change: dict[str, Any]) -> None:
    assert revision_of(replace(MODEL, **change), "") != revision_of(MODEL, "")
    assert revision_of(MODEL, "a file") != revision_of(MODEL, "")
    assert revision_of(replace(MODEL, slots=9), "") == revision_of(MODEL, "")
