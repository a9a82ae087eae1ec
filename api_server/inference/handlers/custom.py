"""Finds a handler of one's own by the import path that a model's entry names."""

import importlib
import inspect
import re

from api_server.errors import ConfigurationError
from api_server.inference.handlers.base import InferenceHandler

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def load_handler_class(import_path: str) -> type[InferenceHandler]:
    """The class behind `package.module:Class`, which runs the module's code.

    Raises `ConfigurationError` when there is none, or it is no whole handler.
    """
    if not _IMPORT_PATH.fullmatch(import_path):
        raise ConfigurationError(
            f"handler: {import_path!r} is no import path; write it as package.module:Class."
        )
    module_name, _, class_name = import_path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            raise ConfigurationError(
                f"handler: {import_path} cannot be imported: there is no module {exc.name} in the "
                "current folder or on the Python path."
            ) from exc
        raise ConfigurationError(f"handler: {module_name} cannot be imported ({exc}).") from exc
    except Exception as exc:  # the edge to code that is not ours
        raise ConfigurationError(
            f"handler: {module_name} cannot be imported ({type(exc).__name__}: {exc})."
        ) from exc
    found = getattr(module, class_name, None)
    if found is None:
        raise ConfigurationError(f"handler: {module_name} has no class {class_name}.")
    if not (isinstance(found, type) and issubclass(found, InferenceHandler)):
        raise ConfigurationError(
            f"handler: {import_path} is no InferenceHandler; inherit from "
            "api_server.inference.handlers.base.InferenceHandler."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigurationError(f"handler: {import_path} lacks {missing}.")
    return found
