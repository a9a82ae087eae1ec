"""The schemas of what a run writes, made from the types: `python -m load_tests.report.schemas`."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from load_tests.capacity import Capacity
from load_tests.gate import Verdict
from load_tests.results import Result

FOLDER = Path(__file__).parent
SCHEMAS: dict[str, Any] = {
    "result.schema.json": Result,
    "verdicts.schema.json": list[Verdict],
    "capacity.schema.json": Capacity,
}


def text_of(name: str) -> str:
    """The file as it must be."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(SCHEMAS[name]),
    }
    return json.dumps(schema, indent=1) + "\n"


def main() -> int:
    """Write all of them."""
    for name in SCHEMAS:
        (FOLDER / name).write_text(text_of(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
