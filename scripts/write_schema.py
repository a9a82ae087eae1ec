"""Writes configs/stack.schema.json, the JSON schema that editors check stack.yaml with."""

import json
import sys

from api_server.settings import REPOSITORY, Stack


def main() -> int:
    """Write the file."""
    text = json.dumps(Stack.model_json_schema(), indent=2) + "\n"
    (REPOSITORY / "configs/stack.schema.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
