"""What a run is asked for: the request's words, and the assistant's where it has none. Pure."""

from collections.abc import Sequence

from api_server.errors import InvalidRequestError
from api_server.schemas.assistants import FileSearch, Function, KeptAssistant
from api_server.schemas.runs import (
    AnyRunBody,
    ChosenCode,
    ChosenFunction,
    ChosenSearch,
    RunBody,
    Truncation,
    Wish,
)
from api_server.services.assistants.rules import NO_SANDBOX, check_tools

NO_STRATEGY = Truncation("auto")


def wish_from(kept: KeptAssistant, asked: AnyRunBody) -> Wish:
    """What a run is asked for. Raises `InvalidRequestError` for what is not served."""
    check_tools(asked.tools)
    tools = kept.tools if asked.tools is None else asked.tools
    strategy = asked.truncation_strategy or NO_STRATEGY
    if strategy.type == "last_messages" and strategy.last_messages is None:
        param = "truncation_strategy.last_messages"
        raise InvalidRequestError(f"{param} is required for type last_messages.", param=param)
    _check_choice(asked, tools)
    instructions = kept.instructions if asked.instructions is None else asked.instructions
    more = asked.additional_instructions if isinstance(asked, RunBody) else None
    parts = [part for part in (instructions, more) if part]
    return Wish(
        model=asked.model or kept.model,
        instructions="\n".join(parts),
        tools=list(tools),
        temperature=_given(asked.temperature, kept.temperature),
        top_p=_given(asked.top_p, kept.top_p),
        max_prompt_tokens=asked.max_prompt_tokens,
        max_completion_tokens=asked.max_completion_tokens,
        truncation_strategy=strategy,
        tool_choice=asked.tool_choice or "auto",
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        response_format=asked.response_format or kept.response_format,
        reasoning_effort=asked.reasoning_effort or kept.reasoning_effort,
        tool_resources=kept.tool_resources,
    )


def _check_choice(asked: AnyRunBody, tools: Sequence[object]) -> None:
    choice, names = asked.tool_choice, None
    if choice is None or choice in ("none", "auto"):
        return
    if isinstance(choice, ChosenCode):
        raise InvalidRequestError(NO_SANDBOX, param="tool_choice")
    if isinstance(choice, ChosenFunction):
        names = {tool.function.name for tool in tools if isinstance(tool, Function)}
        is_there = choice.function.name in names
    elif isinstance(choice, ChosenSearch):
        is_there = any(isinstance(tool, FileSearch) for tool in tools)
    else:
        is_there = bool(tools)
    if not is_there:
        raise InvalidRequestError(
            "tool_choice: asks for a tool that is not among the tools of this run.",
            param="tool_choice",
        )


def _given(asked: float | None, kept: float) -> float:
    return kept if asked is None else asked
