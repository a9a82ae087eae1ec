"""What the model is asked: the conversation so far, the run's own steps, tools, limits. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from api_server.errors import InvalidRequestError
from api_server.inference.estimating import estimate_chat
from api_server.inference.shortening import keep_newest
from api_server.schemas.assistants import Function, Tool
from api_server.schemas.runs import ChosenFunction, ChosenSearch, Wish
from api_server.services.runs.tools import Tools
from api_server.stores.run_rows import Action, Heard, Step

Json = dict[str, Any]

MOST_MESSAGES = 1000
"""Of a thread, for a run that does not say how many of the last it wants."""

NOT_SHOWN = "[An image that cannot be shown here.]"

_PARTS = msgspec.json.Decoder(list[dict[str, Any]])
_DETAILS = msgspec.json.Decoder(dict[str, Any])


def chat_messages(
    instructions: str,
    heard: Sequence[Heard],
    run_id: str,
    steps: Sequence[Step],
    actions: Sequence[Action],
) -> list[Json]:
    """The messages of a chat: the thread's, then what this run has said and called so far.

    Only what was completed counts.
    """
    messages: list[Json] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    own = {each.id: each for each in heard if each.run_id == run_id}
    messages += [_message(each) for each in heard if each.run_id != run_id]
    for step in steps:
        if step.status != "completed":
            continue
        if step.type == "message_creation":
            message_id = _DETAILS.decode(step.details)["message_creation"]["message_id"]
            if message_id in own:
                messages.append(_message(own[message_id]))
            continue
        calls = [each for each in actions if each.step_id == step.id]
        asked = {"role": "assistant", "content": None, "tool_calls": [_call(c) for c in calls]}
        if messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]:
            previous = steps[steps.index(step) - 1] if steps.index(step) else None
            if previous is not None and previous.type == "message_creation":
                asked["content"] = messages.pop()["content"]  # both were one answer
        messages.append(asked)
        messages += [
            {"role": "tool", "tool_call_id": each.tool_call_id, "content": each.output or ""}
            for each in calls
        ]
    return messages


def chat_body(
    wish: Wish,
    messages: Sequence[Json],
    tools: Tools,
    *,
    is_first: bool,
    most_tokens: int | None,
) -> bytes:
    """The body of a chat. A choice of tools is for the first answer of a run only: a model that
    must call a function each time would never come to its end.
    """
    body: Json = {
        "model": wish.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": wish.temperature,
        "top_p": wish.top_p,
    }
    shown = [_shown(tool, tools) for tool in wish.tools]
    if shown:
        body["tools"] = shown
        if wish.tool_choice == "none":
            body["tool_choice"] = "none"
        elif is_first and wish.tool_choice != "auto":
            body["tool_choice"] = _choice(wish, tools)
        if not wish.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if wish.response_format != "auto":
        body["response_format"] = wish.response_format
    if wish.reasoning_effort is not None:
        body["reasoning_effort"] = wish.reasoning_effort
    if most_tokens is not None:
        body["max_completion_tokens"] = most_tokens
    return msgspec.json.encode(body)


def within(messages: list[Json], most_tokens: int) -> list[Json] | None:
    """The newest messages that have about so many tokens; None where even what may not go has
    more.
    """
    raws = [msgspec.Raw(msgspec.json.encode(each)) for each in messages]
    while True:
        count = estimate_chat(msgspec.json.encode(raws))
        if count <= most_tokens:
            return [msgspec.json.decode(each) for each in raws]
        kept = keep_newest(raws, most_tokens / count)
        if len(kept) == len(raws):
            return None
        raws = kept


def _message(heard: Heard) -> Json:
    parts = _PARTS.decode(heard.content)
    texts = [part["text"]["value"] for part in parts if part["type"] == "text"]
    if len(texts) == len(parts):
        return {"role": heard.role, "content": "\n".join(texts)}
    return {"role": heard.role, "content": [_part(part) for part in parts]}


def _part(part: Json) -> Json:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]["value"]}
    if part["type"] == "image_url":
        return {"type": "image_url", "image_url": part["image_url"]}
    return {"type": "text", "text": NOT_SHOWN}  # of a thread that was moved in


def _call(action: Action) -> Json:
    function = {"name": action.name, "arguments": action.arguments or "{}"}
    return {"id": action.tool_call_id, "type": "function", "function": function}


def _shown(tool: Tool, tools: Tools) -> Json:
    server_tool = tools.find(tool)
    if server_tool is not None:
        return server_tool.definition(tool)
    if isinstance(tool, Function):
        shape = tool.function
        function: Json = {"name": shape.name, "parameters": shape.parameters or EMPTY}
        if shape.description is not None:
            function["description"] = shape.description
        if shape.strict is not None:
            function["strict"] = shape.strict
        return {"type": "function", "function": function}
    raise InvalidRequestError("A tool of this run is not served here any more.")


EMPTY: Json = {"type": "object", "properties": {}}
"""The parameters of a function that takes none."""


def _choice(wish: Wish, tools: Tools) -> Any:
    choice = wish.tool_choice
    if isinstance(choice, ChosenFunction):
        return {"type": "function", "function": {"name": choice.function.name}}
    if isinstance(choice, ChosenSearch):
        for tool in wish.tools:
            server_tool = tools.find(tool)
            if server_tool is not None and server_tool.type == "file_search":
                name = server_tool.definition(tool)["function"]["name"]
                return {"type": "function", "function": {"name": name}}
        raise InvalidRequestError("tool_choice names file_search, which is not among the tools.")
    return choice
