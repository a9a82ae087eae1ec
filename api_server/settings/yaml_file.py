"""Reads a YAML file into its shape, or says which key of it is wrong and why."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from api_server.errors import ConfigurationError
from api_server.settings.explaining import explain, read_text

Shape = TypeVar("Shape", bound=BaseModel)


def load_yaml(path: Path, shape: type[Shape], remedy: str = "") -> Shape:
    """Read and check a file. Raises `ConfigurationError` with a line for each mistake."""
    document = read_document(path, remedy)
    try:
        return shape.model_validate({} if document is None else document)
    except ValidationError as exc:
        lines = [f"{path}: {explain(error, shape)}" for error in exc.errors()]
        raise ConfigurationError("\n".join(lines)) from exc


def read_document(path: Path, remedy: str = "", *, are_keys_secret: bool = False) -> Any:
    """What a file holds, not checked. Raises `ConfigurationError`, which shows no secret key."""
    text = read_text(path, remedy)
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(exc, "problem", None) or "it is not valid YAML"
        if are_keys_secret and "stands twice" in problem:
            problem = "a key stands twice"
        raise ConfigurationError(f"{path}{line}: {problem}.") from (
            None if are_keys_secret else exc
        )


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
