"""Writes a request of the library as the body of OpenAI's HTTP API, for one engine. Pure."""

from typing import Any

import msgspec

from api_server.errors import ConfigurationError, InvalidRequestError
from api_server.inference.affinity import chat_prefix, text_prefix
from api_server.inference.catalogue import Model
from api_server.inference.handlers.prompts import not_unicode
from api_server.inference.schemas import GenerationParams, InferenceRequest

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

_LIMITS = ("max_completion_tokens", "max_tokens")
_CHOOSING = ("top_p", "top_k", "min_p")


def path_of(request: InferenceRequest) -> str:
    """Where a request goes: messages are a chat, a prompt is continued as it stands."""
    return TEXT_PATH if request.messages is None else CHAT_PATH


def body_of(request: InferenceRequest, model: Model) -> bytes:
    """The JSON body of a stream.

    From below to above: the engine's sampling, our own defaults, the model's, what the request sets
    itself. Raises `ConfigurationError` for a parameter that the engine does not have, and
    `InvalidRequestError` for what is no JSON.
    """
    engine = model.engine
    is_chat = request.messages is not None
    limit = _LIMITS[0] if is_chat else _LIMITS[1]
    wanted = _parameters(request.params, model, limit)
    explicit = request.params.model_fields_set
    body: dict[str, Any] = dict(engine.sampling)
    body |= {name: value for field, name, value in wanted if field not in explicit}
    body |= {limit if name in _LIMITS else name: value for name, value in model.defaults.items()}
    body |= {name: value for field, name, value in wanted if field in explicit}
    if request.params.is_greedy:
        body = {name: value for name, value in body.items() if name not in _CHOOSING}
        body["temperature"] = 0.0
    if model.max_output_tokens is not None:
        asked = body.get(limit)
        most = model.max_output_tokens
        body[limit] = min(asked, most) if isinstance(asked, int) else most
    if is_chat:
        body["messages"] = request.messages
        if request.tools:
            body["tools"] = request.tools
    else:
        body["prompt"] = request.prompt
    body = {engine.renamed_fields.get(name, name): value for name, value in body.items()}
    body |= {"model": model.name_at_engine or model.id, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if request.stop_sequences and engine.running_usage is not None:
        body |= engine.running_usage.ask  # we shall end it, before it tells its usage
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as exc:
        raise not_unicode(exc) from exc
    except (TypeError, msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidRequestError(
            f"The messages or tools of this request cannot be written as JSON: {exc}.",
            param="messages",
        ) from exc


def prefix_of(request: InferenceRequest) -> bytes:
    """What the requests of one conversation have in common."""
    if request.messages is None:
        return text_prefix(msgspec.Raw(msgspec.json.encode(request.prompt)))
    return chat_prefix(msgspec.Raw(msgspec.json.encode(message)) for message in request.messages)


def _parameters(
    params: GenerationParams, model: Model, limit: str
) -> list[tuple[str, str, int | float]]:
    """Each parameter that has a value: our name, the engine's name, the value."""
    found: list[tuple[str, str, int | float]] = []
    if params.max_new_tokens is not None:
        found.append(("max_new_tokens", limit, params.max_new_tokens))
    if params.temperature is not None:
        found.append(("temperature", "temperature", params.temperature))
    if params.top_p is not None:
        found.append(("top_p", "top_p", params.top_p))
    own = {"repetition_penalty": (params.repetition_penalty, 1.0)}
    if not params.is_greedy:
        own["top_k"] = (params.top_k, 0)
    for name, (value, changes_nothing) in own.items():
        if value is None:
            continue
        if name in model.engine.own_parameters:
            found.append((name, model.engine.own_parameters[name], value))
        elif value != changes_nothing:
            raise ConfigurationError(
                f"{name} is {value}, and the engine of '{model.id}' ({model.engine.name}) has no "
                "such parameter; leave it out, or ask another model."
            )
    return found
