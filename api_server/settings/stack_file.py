"""Reads `configs/stack.yaml` and says what is wrong with it, key by key."""

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from api_server.errors import ConfigurationError
from api_server.settings.explaining import reason, suggestion
from api_server.settings.stack import Stack
from api_server.settings.yaml_file import read_document


def load_stack(path: Path) -> Stack:
    """Read and check a stack file."""
    document = read_document(path, " STACK_CONFIG names the file to use.")
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: must hold keys such as 'models:'.")
    try:
        return Stack.model_validate(document)
    except ValidationError as exc:
        lines = [f"{path}: {_describe(error)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc


def _describe(error: Any) -> str:
    location: tuple[int | str, ...] = error["loc"]
    path = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in location)) or "the file"
    if error["type"] != "extra_forbidden":
        return f"{path}: {reason(error)}"
    known = _keys_at(location[:-1])
    return f"unknown key '{path}'.{suggestion(str(location[-1]), known)}"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that `Stack` knows at a place in the document."""
    model: type[BaseModel] = Stack
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(
                candidate
                for candidate in (annotation, *get_args(annotation))
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            )
    return list(model.model_fields)
