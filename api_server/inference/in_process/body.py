"""Reads OpenAI's bodies as requests of the library, for models in this process. Pure."""

from typing import Any

import msgspec
from pydantic import ValidationError

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.inference.schemas import GenerationParams, InferenceRequest
from api_server.inference.wire import Call

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"

_LIMITS = ("max_completion_tokens", "max_tokens")
_PARAMETERS = {
    **{name: name for name in GenerationParams.model_fields if name != "max_new_tokens"},
    **dict.fromkeys(_LIMITS, "max_new_tokens"),
}
_READ_HERE = frozenset({"model", "messages", "prompt", "stop", "stream", "stream_options"})
_ABOUT_THE_CLIENT = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "user"})
_decoder = msgspec.json.Decoder(dict[str, Any])


def read_body(call: Call, model: Model) -> tuple[InferenceRequest, bool]:
    """The request, and whether the usage is to be told at the end of its stream.

    The gateway has refused what is in the row of the model's engine. What nobody here knows is
    refused too, since it could not have any effect. Raises `InvalidRequestError`.
    """
    body = _decoder.decode(call.body)
    fields = {name: value for name, value in body.items() if value is not None}
    known = _PARAMETERS.keys() | _READ_HERE | _ABOUT_THE_CLIENT | model.engine.unsupported.keys()
    if unknown := fields.keys() - known:
        name = min(unknown)
        raise InvalidRequestError(
            f"{name}: '{model.id}' runs in the gateway itself, which knows no such field; leave it "
            "out.",
            param=name,
        )
    _refuse_log_probabilities(fields, model)
    is_chat = call.path == CHAT_PATH
    stop = fields.get("stop")
    params: dict[str, Any] = dict.fromkeys(("max_new_tokens", "temperature"))
    params |= {_PARAMETERS[name]: fields[name] for name in fields if name in _PARAMETERS}
    try:
        request = InferenceRequest(
            model_id=model.id,
            prompt=None if is_chat else _only_prompt(fields.get("prompt"), model),
            messages=fields.get("messages") if is_chat else None,
            params=GenerationParams(**params),
            stream=True,
            request_id=call.request_id,
            stop_sequences=[stop] if isinstance(stop, str) else stop or None,
        )
    except ValidationError as exc:
        raise _named(exc, fields) from exc
    options = fields.get("stream_options") or {}
    return request, bool(options.get("include_usage"))


def _refuse_log_probabilities(fields: dict[str, Any], model: Model) -> None:
    """0 is harmless nowhere, though it equals the False of chats: texts mean the chosen token's."""
    if fields.get("logprobs", False) is not False:
        raise InvalidRequestError(
            f"logprobs: not supported by '{model.id}'; leave it out.", param="logprobs"
        )


def _only_prompt(prompt: object, model: Model) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequestError(
            f"prompt: '{model.id}' takes one text; send one request for each, and no token ids.",
            param="prompt",
        )
    return prompt


def _named(exc: ValidationError, fields: dict[str, Any]) -> InvalidRequestError:
    """pydantic names our fields; clients know OpenAI's."""
    first = exc.errors()[0]
    ours = str(first["loc"][0]) if first["loc"] else ""
    ours = "stop" if ours == "stop_sequences" else ours
    name = next((sent for sent in fields if _PARAMETERS.get(sent, sent) == ours), ours)
    what = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidRequestError(f"{name}: {what}.", param=name)
