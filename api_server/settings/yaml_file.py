"""Reads a YAML file into its shape, or says which key of it is wrong and why."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from api_server.errors import ConfigurationError
from api_server.settings.explaining import explain, read_text
from api_server.settings.stack_file import UniqueKeyLoader

Shape = TypeVar("Shape", bound=BaseModel)


def load_yaml(path: Path, shape: type[Shape], remedy: str = "") -> Shape:
    """Read and check a file. Raises `ConfigurationError` with a line for each mistake."""
    text = read_text(path, remedy)
    try:
        document = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(exc, "problem", None) or "it is not valid YAML"
        raise ConfigurationError(f"{path}{line}: {problem}.") from exc
    try:
        return shape.model_validate({} if document is None else document)
    except ValidationError as exc:
        lines = [f"{path}: {explain(error, shape)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc
