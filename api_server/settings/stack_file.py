"""Reads `configs/stack.yaml` and says what is wrong with it, key by key."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from api_server.errors import ConfigurationError
from api_server.settings.explaining import read_text, reason, suggestion
from api_server.settings.stack import Stack


def load_stack(path: Path) -> Stack:
    """Read and check a stack file."""
    text = read_text(path, " STACK_CONFIG names the file to use.")
    try:
        document = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(exc, "problem", None) or "it is not valid YAML"
        raise ConfigurationError(f"{path}{line}: {problem}.") from exc
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: must hold keys such as 'models:'.")
    try:
        return Stack.model_validate(document)
    except ValidationError as exc:
        lines = [f"{path}: {_describe(error)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets the last of two equal keys win in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


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
