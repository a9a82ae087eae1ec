"""Documents and questions made for the tests: which document answers which question."""

from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).parent / "documents.yaml"


@dataclass(frozen=True)
class Document:
    """A text under a name of its own, and what only it answers."""

    name: str
    text: str
    questions: list[str]


def documents() -> list[Document]:
    return [Document(**each) for each in yaml.safe_load(FILE.read_text())]
