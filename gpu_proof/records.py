"""Which steps are done, so that a call goes on where the last one was stopped.

A step counts as done only for the same key: what it was made from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Records:
    """By name: the key a step was done with, the seconds it took, and what it found."""

    steps: Mapping[str, Mapping[str, Any]]

    def is_done(self, name: str, key: str) -> bool:
        return name in self.steps and self.steps[name].get("key") == key

    def found(self, name: str) -> Mapping[str, Any]:
        """What a step that is done found; nothing for one that is not."""
        found: Mapping[str, Any] = self.steps.get(name, {}).get("found", {})
        return found

    def having(self, name: str, key: str, seconds: float, found: Mapping[str, Any]) -> "Records":
        """These, and one more."""
        step = {"key": key, "seconds": round(seconds, 1), "found": dict(found)}
        return replace(self, steps={**self.steps, name: step})


def key_of(*parts: object) -> str:
    """12 hex digits over the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def read_records(path: Path) -> Records:
    """What cannot be read is as if nothing were done."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    return Records(content if isinstance(content, dict) else {})


def write_records(path: Path, records: Records) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(records.steps, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
