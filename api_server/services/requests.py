"""Reading a client's body and writing the one that goes up to an engine. Pure functions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec

from api_server.errors import InvalidRequestError
from api_server.inference.catalogue import Model
from api_server.schemas.completions import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    NamedTool,
)

_JSON_PATH = re.compile(r"^(?P<what>.*?) - at `\$\.?(?P<path>.*)`$", re.DOTALL)


class Kind(Enum):
    """The two generation routes; the value is the engine's path."""

    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"


@dataclass(frozen=True)
class Generation:
    """A checked request: what the gateway needs to know, and all fields as they came."""

    kind: Kind
    model: str
    is_stream: bool
    wants_usage: bool
    choices_per_prompt: int
    fields: Mapping[str, msgspec.Raw]


_ANY_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT = msgspec.json.Decoder(ChatRequest)
_TEXT = msgspec.json.Decoder(CompletionRequest)
_TRUE = msgspec.Raw(b"true")
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')


def parse(kind: Kind, body: bytes) -> Generation:
    """Check a body. Raises `InvalidRequestError` that names the field and what was wrong."""
    try:
        if not body.isascii():
            body.decode()
        fields = _ANY_FIELDS.decode(body)
        request: GenerationRequest
        if kind is Kind.CHAT:
            request = chat = _CHAT.decode(body)
            _check_tool_choice(chat)
        else:
            request = _TEXT.decode(body)
            _refuse_what_no_engine_honours(request)
    except msgspec.ValidationError as exc:
        raise _field_error(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"The request body is not valid JSON: {exc}.") from exc
    except RecursionError as exc:
        raise InvalidRequestError("The request body is nested too deeply.") from exc
    options = request.stream_options
    if options is not None and not request.stream:
        raise InvalidRequestError(
            "stream_options is only allowed together with stream: true.", param="stream_options"
        )
    return Generation(
        kind=kind,
        model=request.model,
        is_stream=bool(request.stream),
        wants_usage=bool(options and options.include_usage),
        choices_per_prompt=request.n or 1,
        fields=fields,
    )


def upstream_body(generation: Generation, model: Model) -> bytes:
    """The body for the engine: defaults below, the client's fields on top, always a stream."""
    refused = model.engine.refused_fields.intersection(generation.fields)
    if refused:
        name = min(refused)
        raise InvalidRequestError(f"{name} is not available here; leave it out.", param=name)
    defaults: Mapping[str, object] = {**model.engine.sampling, **model.defaults}
    sent = {name: raw for name, raw in generation.fields.items() if bytes(raw) != b"null"}
    if "max_completion_tokens" in sent:  # the newer name wins, and engines know the older one
        sent["max_tokens"] = sent.pop("max_completion_tokens")
    forced = {"model": model.id, "stream": _TRUE, "stream_options": _WITH_USAGE}
    return msgspec.json.encode({**defaults, **sent, **forced})


def _check_tool_choice(request: ChatRequest) -> None:
    choice, tools = request.tool_choice, request.tools or []
    if choice == "required" and not tools:
        raise InvalidRequestError("tool_choice 'required' needs tools.", param="tool_choice")
    if isinstance(choice, NamedTool):
        known = [tool.function.name for tool in tools]
        if choice.function.name not in known:
            raise InvalidRequestError(
                f"tool_choice names a function that is not among the tools ({', '.join(known)}).",
                param="tool_choice",
            )


def _refuse_what_no_engine_honours(request: CompletionRequest) -> None:
    if request.logprobs is not None:
        raise InvalidRequestError(
            "logprobs is not supported for text completions yet; use /v1/chat/completions.",
            param="logprobs",
        )
    for name in ("echo", "suffix"):
        if getattr(request, name):
            raise InvalidRequestError(f"{name} is not supported here; leave it out.", param=name)
    if request.best_of not in (None, 1):
        raise InvalidRequestError("best_of is not supported here; use n.", param="best_of")


def _field_error(reason: str) -> InvalidRequestError:
    """msgspec says "Expected `int`, got `str` - at `$.seed`"; clients want the field first."""
    missing = re.match(r"Object missing required field `(\w+)`", reason)
    match = _JSON_PATH.match(reason)
    what = (match["what"] if match else reason).replace("`", "'")
    path = match["path"] if match else ""
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return InvalidRequestError(f"{path} is required.", param=path)
    if not path:
        return InvalidRequestError("The request body must be a JSON object.")
    return InvalidRequestError(f"{path}: {what[:1].lower()}{what[1:]}.", param=path)
