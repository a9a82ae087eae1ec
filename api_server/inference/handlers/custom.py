"""Finds a handler class by its import path, as an entry of the catalogue names it."""

import importlib

from api_server.errors import ConfigurationError
from api_server.inference.handlers.base import InferenceHandler


def load_handler_class(path: str) -> type[InferenceHandler]:
    """The class of `package.module:Class`. Raises `ConfigurationError` that says what is wrong."""
    module_name, colon, class_name = path.partition(":")
    if not (module_name and colon and class_name):
        raise ConfigurationError(
            f"handler: '{path}' is no import path; write package.module:Class."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise ConfigurationError(
            f"handler: '{path}' cannot be imported ({exc}). It must be on the Python path."
        ) from exc
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, InferenceHandler)):
        raise ConfigurationError(
            f"handler: '{path}' is no InferenceHandler; inherit from "
            "api_server.inference.handlers.base.InferenceHandler."
        )
    return found
