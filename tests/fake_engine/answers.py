"""The bodies that the engine answers with, in llama-server's shapes. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from .orders import Play

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
COUNT = "/v1/chat/completions/input_tokens"

MODEL = "fake"
PROMPT_TOKENS = 3
CONTEXT_TOKENS = 2048

_ERROR_500 = {"error": {"code": 500, "message": "CUDA error at /srv/secret.cu", "type": "x"}}
_TOO_LONG = {
    "error": {
        "code": 400,
        "type": "exceed_context_size_error",
        "message": "the request exceeds the available context size",
        "n_prompt_tokens": 5000,
        "n_ctx": CONTEXT_TOKENS,
    }
}
_NO_IMAGES = "image input is not supported - hint: secret mmproj"
GARBAGE = "<<<>>>"
_LOADING = {"error": {"code": 503, "message": "Loading model"}}

INSTEAD: Mapping[str, tuple[int, object]] = {
    "error_500": (500, _ERROR_500),
    "error_429": (429, {"error": {"message": "slow down"}}),
    "loading_503": (503, _LOADING),
    "bad_value": (400, {"error": {"code": 400, "message": "secret grammar"}}),
    "no_images": (500, {"error": {"code": 500, "message": _NO_IMAGES}}),
    "error_body_with_200": (200, _ERROR_500),
    "garbage": (200, GARBAGE),
    "too_long": (400, _TOO_LONG),
}
"""The faults that are a whole answer: status and body."""

RETRY_AFTER = {"error_429": 7}
"""Seconds that a fault asks for where nobody says how many."""

ERROR_EVENT = json.dumps(_ERROR_500)
FIRST_EVENT = {"error_event_first": ERROR_EVENT, "garbage_first": GARBAGE}
"""The faults that are one event and the end of the stream."""


def error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": "invalid_request_error"}}


def usage(play: Play, tokens: int | None = None) -> dict[str, Any]:
    tokens = play.tokens if tokens is None else tokens
    total = PROMPT_TOKENS + tokens
    counts = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens}
    details = {"prompt_tokens_details": {"cached_tokens": play.cached}} if play.cached else {}
    return counts | {"total_tokens": total} | details


def piece(path: str, model: str, text: str, finish_reason: str | None) -> str:
    """The data of one event of a stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    if path == TEXT:
        kind = "text_completion"
        choice["text"] = text
    else:
        kind = "chat.completion.chunk"
        choice["delta"] = {"content": text} if text else {}
    chunk = {"id": "c", "object": kind, "created": 1, "model": model, "choices": [choice]}
    return json.dumps(chunk, separators=(",", ":"))


def usage_piece(play: Play, tokens: int | None = None) -> str:
    return json.dumps({"id": "c", "choices": [], "usage": usage(play, tokens)})


def most_tokens(body: Mapping[str, Any], play: Play) -> int:
    """How long an answer may be."""
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    return int(most) if play.heeds_max and most else play.tokens


def calls_tools(body: Mapping[str, Any], play: Play) -> bool:
    """Whether a chat is answered by calls."""
    messages = body.get("messages") or [{}]
    return bool(play.calls and body.get("tools") and messages[-1].get("role") != "tool")


def call_pieces(model: str, play: Play) -> list[str]:
    """The data of the events that call functions: each one's name, then its arguments in halves."""
    deltas: list[dict[str, Any]] = []
    for index, call in enumerate(play.calls):
        name, arguments = call["name"], call.get("arguments", "{}")
        half = len(arguments) // 2
        first = {"name": name, "arguments": ""}
        deltas.append({"index": index, "id": f"c{index}", "type": "function", "function": first})
        deltas += [
            {"index": index, "function": {"arguments": part}}
            for part in (arguments[:half], arguments[half:])
        ]
    return [_call_piece(model, delta) for delta in deltas]


def _call_piece(model: str, delta: Mapping[str, Any]) -> str:
    choice = {"index": 0, "finish_reason": None, "delta": {"tool_calls": [delta]}}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    return json.dumps(head | {"choices": [choice]}, separators=(",", ":"))


def whole(path: str, model: str, play: Play) -> dict[str, Any]:
    """A plain answer."""
    text = "x" * play.tokens * play.size
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if path == TEXT:
        kind = "text_completion"
        choice["text"] = text
    else:
        kind = "chat.completion"
        choice["message"] = {"role": "assistant", "content": text}
    head = {"id": "c", "object": kind, "created": 1, "model": model}
    return head | {"choices": [choice], "usage": usage(play)}


def vectors(body: Mapping[str, Any]) -> dict[str, Any]:
    """Short vectors, one for each text or list of tokens."""
    given = body["input"]
    count = 1 if isinstance(given, str) or isinstance(given[0], int) else len(given)
    data = [
        {"object": "embedding", "index": index, "embedding": [0.6, 0.8]} for index in range(count)
    ]
    counted = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": body["model"], "data": data, "usage": counted}


def models() -> dict[str, Any]:
    entry = {"id": MODEL, "object": "model", "created": 1, "owned_by": "llamacpp"}
    return {"object": "list", "data": [entry]}


def props(slots: int) -> dict[str, Any]:
    settings = {"n_ctx": CONTEXT_TOKENS}
    path = f"/models/{MODEL}.gguf"
    return {"default_generation_settings": settings, "total_slots": slots, "model_path": path}


def slot_states(slots: int, running: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "n_ctx": CONTEXT_TOKENS, "is_processing": number < running}
        for number in range(slots)
    ]


def metrics(values: Mapping[str, tuple[str, float]]) -> bytes:
    """Prometheus' text format of name to kind and value."""
    lines = []
    for name, (kind, value) in values.items():
        lines += [f"# TYPE {name} {kind}", f"{name} {value:g}"]
    return "\n".join([*lines, ""]).encode()
