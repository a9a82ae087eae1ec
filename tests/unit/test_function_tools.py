"""Python functions, as a model sees them and as it calls them."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

from api_server.errors import ConfigurationError
from api_server.inference.conversations.functions import MAX_RESULT_CHARS, FunctionTools
from api_server.inference.schemas import ToolCall


def flight_times(
    departure: Annotated[str, Field(description="an airport")], arrival: str, day: int = 1
) -> str:
    """When planes
    fly.

    More that only people need.
    """
    return f"{departure}-{arrival} on {day}"


async def double(number: int) -> int:
    return 2 * number


def tools(**functions: Callable[..., Any]) -> FunctionTools:
    return FunctionTools(functions or {"flight_times": flight_times, "double": double})


async def called(name: str, arguments: object, of: FunctionTools | None = None) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return await (of or tools()).call(ToolCall(id="c", name=name, arguments=text))


def test_a_function_is_described_from_its_signature() -> None:
    first, second = tools().tools
    assert first["type"] == "function"
    function = first["function"]
    assert (function["name"], function["description"]) == ("flight_times", "When planes fly.")
    parameters = function["parameters"]
    assert parameters["required"] == ["departure", "arrival"]
    assert parameters["properties"]["departure"]["description"] == "an airport"
    assert parameters["properties"]["day"]["type"] == "integer"
    assert parameters["additionalProperties"] is False
    assert "description" not in second["function"]


async def test_functions_are_called_with_checked_arguments() -> None:
    arguments = {"departure": "LAX", "arrival": "JFK", "day": "3"}
    assert await called("flight_times", arguments) == "LAX-JFK on 3"
    assert await called("double", {"number": 21}) == "42"


@dataclass
class Weather:
    condition: str
    temperature: float


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Weather("sunny", 20.5), '{"condition":"sunny","temperature":20.5}'),
        (None, "null"),
        ("x" * 100_000, "x" * MAX_RESULT_CHARS),
    ],
)
async def test_results_are_text_or_json(result: object, text: str) -> None:
    assert await called("f", {}, tools(f=lambda: result)) == text


async def test_a_result_that_is_no_json_is_told_as_python_does() -> None:
    assert (await called("f", "", tools(f=lambda: [Flights()]))).startswith("[<tests.unit.")


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("nobody", {}, "there is no function nobody; there are: flight_times, double"),
        ("double", "{number: 2", "the arguments are not JSON"),
        ("double", "[2]", "the arguments are no JSON object"),
        ("double", {"number": "two"}, "number: Input should be a valid integer"),
        ("double", {}, "number: Missing required argument"),
        ("double", {"number": 2, "more": 1}, "more: Unexpected keyword argument"),
    ],
)
async def test_a_wrong_call_is_told_to_the_model(
    name: str, arguments: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = await called(name, arguments)
    assert told.startswith("Error: ")
    assert reason in told
    assert "called a function in vain" in caplog.text


async def test_a_function_that_fails_is_told_to_the_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise LookupError("no such city")

    async def times_out() -> None:
        raise TimeoutError("its own")

    functions = tools(fails=fails, times_out=times_out)
    assert await called("fails", {}, functions) == "Error: LookupError: no such city."
    assert await called("times_out", {}, functions) == "Error: TimeoutError: its own."
    assert "LookupError" in caplog.text, "the log has the traceback"


async def test_a_function_may_not_take_for_ever() -> None:
    async def slow() -> None:
        await asyncio.sleep(60)

    functions = FunctionTools({"slow": slow}, call_seconds=0.02)
    assert await called("slow", {}, functions) == "Error: it took longer than 0.02 s."


async def test_plain_functions_do_not_stop_the_world() -> None:
    functions = tools(wait=lambda: time.sleep(0.1))
    began = time.monotonic()
    await asyncio.gather(*(called("wait", {}, functions) for _ in range(3)))
    assert time.monotonic() - began < 0.25


class Flights:
    def times(self, day: int) -> int:
        return day


def test_methods_and_partial_signatures() -> None:
    (tool,) = tools(times=Flights().times).tools
    assert list(tool["function"]["parameters"]["properties"]) == ["day"]


def takes_anything(*args: int) -> int:
    return sum(args)


def positional(number: int, /) -> int:
    return number


def strange(number: Flights) -> Flights:
    return number


@pytest.mark.parametrize("function", [takes_anything, positional, strange, len])
def test_what_cannot_be_described_is_refused_by_name(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="the signature of odd cannot be described"):
        FunctionTools({"odd": function})


@pytest.mark.parametrize("name", ["", "with space", "x" * 65, "a.b"])
def test_a_name_that_no_model_can_use_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name that a model can use"):
        FunctionTools({name: flight_times})
