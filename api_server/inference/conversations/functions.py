"""Python functions as tools of a model: described from their signatures, called with its JSON."""

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError, validate_call
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from api_server.errors import ConfigurationError
from api_server.inference.schemas import ToolCall

CALL_SECONDS = 60.0
MAX_RESULT_CHARS = 32_768

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = logging.getLogger(__name__)


class FunctionTools:
    """Functions by the names under which a model may call them; plain ones run in a thread.

    A parameter's type and default come from the signature, its description from
    `Annotated[..., pydantic.Field(description=...)]`, the function's from the first paragraph of
    its docstring. Raises `ConfigurationError` for a function that cannot be described.
    """

    def __init__(
        self, functions: Mapping[str, Callable[..., Any]], *, call_seconds: float = CALL_SECONDS
    ) -> None:
        self.tools = [_described(name, function) for name, function in functions.items()]
        self._functions = {name: validate_call(function) for name, function in functions.items()}
        self._is_async = {name: inspect.iscoroutinefunction(functions[name]) for name in functions}
        self._call_seconds = call_seconds

    async def call(self, call: ToolCall) -> str:
        """What a function returned, as text (JSON where it is none), or in a sentence why not.

        Whatever goes wrong is the model's to know and to put right; it is logged, not raised.
        """
        return (await self.attempt(call))[0]

    async def attempt(self, call: ToolCall) -> tuple[str, bool]:
        """The same, and whether it has failed."""
        try:
            return _whole(_as_text(await self._result_of(call))), False
        except _CallFailedError as exc:
            reason = _whole(str(exc)[:MAX_RESULT_CHARS])
            fields = {"function": call.name[:64], "reason": reason[:500]}
            log.warning("a model called a function in vain", extra=fields)
            return f"Error: {reason}.", True

    async def _result_of(self, call: ToolCall) -> object:
        function = self._functions.get(call.name)
        if function is None:
            known = ", ".join(self._functions)
            raise _CallFailedError(f"there is no function {call.name[:64]}; there are: {known}")
        arguments = _arguments_of(call)
        limit = asyncio.timeout(self._call_seconds)
        try:
            async with limit:
                if self._is_async[call.name]:
                    return await function(**arguments)
                # A thread cannot be ended: after the time-out it goes on for nobody.
                return await asyncio.to_thread(function, **arguments)
        except ValidationError as exc:
            raise _CallFailedError(f"wrong arguments: {_reasons(exc)}") from exc
        except (Exception, SystemExit) as exc:  # the edge to code that is not ours
            if limit.expired():
                raise _CallFailedError(f"it took longer than {self._call_seconds:g} s") from exc
            log.exception("a function of a conversation failed", extra={"function": call.name})
            raise _CallFailedError(f"{type(exc).__name__}: {exc}") from exc


class _CallFailedError(Exception):
    """A call came to nothing; the message is for the model."""


def _arguments_of(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as exc:
        raise _CallFailedError(f"the arguments are not JSON ({exc})") from exc
    if not isinstance(arguments, dict):
        raise _CallFailedError("the arguments are no JSON object")
    return arguments


def _described(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """OpenAI's description of a function."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"available_functions: {name!r} is no name that a model can use; take letters, "
            "digits, _ and -, 64 at most."
        )
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
        schema = adapter.json_schema()
    except PydanticUserError as exc:
        raise _undescribable(name) from exc
    if schema.get("type") != "object":
        raise _undescribable(name)
    described: dict[str, Any] = {"name": name, "parameters": schema}
    if text := inspect.getdoc(function):
        described["description"] = " ".join(text.split("\n\n")[0].split())
    return {"type": "function", "function": described}


def _undescribable(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"available_functions: the signature of {name} cannot be described to a model. Give it "
        "named parameters with types that JSON has, no *args and nothing positional only."
    )


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        ".".join(str(part) for part in each["loc"]) + ": " + each["msg"]
        for each in error.errors(include_url=False)
    )


def _as_text(result: object) -> str:
    if isinstance(result, str):
        return result[:MAX_RESULT_CHARS]
    try:
        return to_json(result).decode()[:MAX_RESULT_CHARS]
    except PydanticSerializationError:
        return str(result)[:MAX_RESULT_CHARS]


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which no JSON can carry on."""
    return text.encode("utf-8", "replace").decode()
