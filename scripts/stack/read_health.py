"""Reads the gateway's /health on standard input: `read_health.py SLOTS CONTEXT_TOKENS`.

Says which models answer. Exit code 1 where one does not, where a store is away, or where an engine
has other slots or another context than the gateway was told, which it checks itself.
"""

import json
import sys
from typing import Any


def problems_of(health: dict[str, Any]) -> list[str]:
    """One line for each."""
    models = health["models"]
    found = [f"the model {each['id']} is not ready" for each in models if not each["is_ready"]]
    stores = health["dependencies"]
    found += [f"{name} is away" for name, state in stores.items() if state == "down"]
    return [*found, *health["problems"]]


def main() -> int:
    """Print what is well and what is not."""
    slots, context_tokens = sys.argv[1:3]
    health = json.load(sys.stdin)
    problems = problems_of(health)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        names = ", ".join(model["id"] for model in health["models"])
        print(f"  ok    models that answer: {names} ({slots} slots of {context_tokens} tokens)")
    return 1 if problems else 0


sys.exit(main())
