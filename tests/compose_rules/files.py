"""Reads the compose files as Docker Compose does: anchors resolved, one file laid over another.

Values keep their `${NAME:-default}`; nothing is put in for them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = "docker-compose.yaml"
GPU = "docker-compose.gpu.yaml"
SEAWEEDFS = "docker-compose.seaweedfs.yaml"
COMBINATIONS = ((BASE,), (BASE, GPU), (BASE, SEAWEEDFS), (BASE, GPU, SEAWEEDFS))

REPLACED = frozenset({"command", "entrypoint", "test"})
"""Lists of which the later file's stands alone; all others are put together."""

VARIABLE = re.compile(r"(?<!\$)(?:\$\$)*\$\{(\w+)(?:(:?[-?])([^}]*))?\}")

Document = dict[str, Any]

ONE_SHOTS = frozenset({"model-init", "bucket-init"})
"""Services that do one thing and end."""


@dataclass(frozen=True)
class Variable:
    """A `${NAME...}` in a value: `how` is `:-`, `:?` or nothing, `rest` is what follows."""

    name: str
    how: str
    rest: str


def raw(name: str) -> Document:
    """One file by itself."""
    document: Document = yaml.safe_load((REPOSITORY / name).read_text())
    return document


def combined(names: tuple[str, ...]) -> Document:
    """Some files, each laid over those before it."""
    documents = [raw(name) for name in names]
    result = documents[0]
    for later in documents[1:]:
        result = laid_over(result, later)
    return result


def laid_over(first: Document, later: Document) -> Document:
    """`later` over `first`, as Compose merges a service of two files."""
    result = dict(first)
    for key, value in later.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            result[key] = laid_over(old, value)
        elif key == "volumes" and isinstance(value, list) and isinstance(old, list):
            targets = {mount_of(volume)[1] for volume in value}
            result[key] = [volume for volume in old if mount_of(volume)[1] not in targets] + value
        elif isinstance(value, list) and isinstance(old, list) and key not in REPLACED:
            result[key] = [*old, *(item for item in value if item not in old)]
        else:
            result[key] = value
    return result


def services(document: Document) -> dict[str, Document]:
    found: dict[str, Document] = document["services"]
    return found


def dependencies(service: Document) -> dict[str, dict[str, str]]:
    found = service.get("depends_on", {})
    return found if isinstance(found, dict) else {name: {} for name in found}


def mount_of(volume: str) -> tuple[str, str]:
    """Source and target of a volume in the short form."""
    source, target = volume.split(":")[:2]
    return source, target


def strings(value: object) -> Iterator[str]:
    """Every string in a document, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def variables(value: object) -> list[Variable]:
    """Every variable in the values of a document."""
    return [
        Variable(name, how or "", rest or "")
        for text in strings(value)
        for name, how, rest in VARIABLE.findall(text)
    ]


def image_of(spelling: str) -> str:
    """The image that stands where its variable is not set."""
    found = variables(spelling)
    return found[0].rest if found else spelling


def repository_of(image: str) -> str:
    """An image without tag and digest."""
    name = image.split("@", maxsplit=1)[0]
    head, _, last = name.rpartition("/")
    return f"{head}/{last.split(':')[0]}" if head else last.split(":")[0]


def seconds(duration: str) -> float:
    """A duration such as 1m30s."""
    parts = re.findall(r"(\d+)(h|m|s|ms)", duration)
    return sum(
        int(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts
    )


def block_of(service: str, names: tuple[str, ...]) -> str:
    """The lines of a service in the files, comments included, and the comment above it."""
    found = []
    for name in names:
        lines = (REPOSITORY / name).read_text().splitlines()
        starts = [index for index, line in enumerate(lines) if line == f"  {service}:"]
        for start in starts:
            first = start
            while first and lines[first - 1].lstrip().startswith("#"):
                first -= 1
            last = start + 1
            while last < len(lines) and not re.match(r"^ {0,2}[^\s#]", lines[last]):
                last += 1
            found += lines[first:last]
    return "\n".join(found)
