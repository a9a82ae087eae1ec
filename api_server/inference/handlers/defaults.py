"""What a request leaves open and a model's entry in the catalogue decides. Pure."""

from typing import Any

import msgspec
from pydantic import ValidationError

from api_server.errors import ConfigurationError
from api_server.inference.catalogue import Model
from api_server.inference.handlers.prompts import not_unicode
from api_server.inference.schemas import GenerationParams, InferenceRequest

_NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    **{name: name for name in GenerationParams.model_fields},
}


def completed(request: InferenceRequest, model: Model) -> InferenceRequest:
    """A request for a model in this process with all its parameters.

    From below to above: our own defaults, the model's, what the request sets itself; then the
    model's limit. Raises `ConfigurationError` for a default that no such model has, and
    `InvalidRequestError` for a text that is none, which each library would fail at in its own way.
    """
    try:
        msgspec.json.encode((request.prompt, request.messages), enc_hook=str)
    except UnicodeEncodeError as exc:
        raise not_unicode(exc) from exc
    return request.model_copy(update={"params": _parameters(request.params, model)})


def _parameters(params: GenerationParams, model: Model) -> GenerationParams:
    defaults: dict[str, Any] = {}
    for name, value in model.defaults.items():
        if name not in _NAMES:
            raise ConfigurationError(
                f"models.{model.id}.defaults.{name}: models that run in this process have no such "
                "parameter."
            )
        defaults[_NAMES[name]] = value
    explicit = {name: getattr(params, name) for name in params.model_fields_set}
    try:
        merged = GenerationParams(**{**defaults, **explicit})
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigurationError(
            f"models.{model.id}.defaults: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        ) from exc
    most, wanted = model.max_output_tokens, merged.max_new_tokens
    if most is None or (wanted is not None and wanted <= most):
        return merged
    return merged.model_copy(update={"max_new_tokens": most})
