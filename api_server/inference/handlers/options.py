"""The `options` of a model's entry, for handlers that know a few of them. Pure."""

from collections.abc import Mapping

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model

Option = bool | int | float | str


def read_options(model: Model, defaults: Mapping[str, Option]) -> dict[str, Option]:
    """All options with their values; `defaults` has the known names, and the type of each.

    Raises `ConfigurationError` for an unknown name or a value of another type.
    """
    known = dict(defaults)
    for name, value in model.options.items():
        where = f"models.{model.id}.options.{name}"
        if name not in defaults:
            raise ConfigurationError(
                f"{where}: there is no such option; known are {', '.join(sorted(defaults))}."
            )
        wanted = type(defaults[name])
        if type(value) is not wanted:
            raise ConfigurationError(f"{where}: {value!r} is no {wanted.__name__}.")
        known[name] = value
    return known


def missing_extra(model_id: str, extra: str, reason: Exception) -> ConfigurationError:
    """The libraries that an in-process model needs are not there, or not complete."""
    return ConfigurationError(
        f"The model '{model_id}' runs in this process and needs packages that are not installed "
        f"here ({reason}): run pip install '.[{extra}]' in the folder of llm-serving-stack."
    )
