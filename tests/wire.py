"""Validates answers against OpenAI's published schemas (tests/reference)."""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_FILE = Path(__file__).parent / "reference/openai.json"


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    document = _with_nulls(json.loads(_FILE.read_text()))
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:openai", resource)
    reference = {"$ref": f"urn:openai#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator(reference, registry=registry)


def _with_nulls(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_with_nulls(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_nulls(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


def reference(name: str) -> dict[str, Any]:
    """A schema of the reference as it stands."""
    found: dict[str, Any] = json.loads(_FILE.read_text())["components"]["schemas"][name]
    return found


def assert_valid(name: str, answer: Any) -> None:
    """`answer` is decoded JSON; `name` is a schema of the reference."""
    errors = [
        f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(answer)
    ]
    assert not errors, f"not a {name}: {errors[:5]}"
