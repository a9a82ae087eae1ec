"""A function of the operator's, as a tool that runs use."""

from collections.abc import Sequence

from api_server.schemas.assistants import Function, Tool
from api_server.services.functions.hosts import FunctionHosts
from api_server.services.runs.tools import Context, Json, Result


class OperatorsFunction:
    """The `ServerTool` of one name."""

    type = "function"

    def __init__(self, hosts: FunctionHosts, name: str) -> None:
        self._hosts = hosts
        self._name = name

    def definition(self, tool: Tool) -> Json:
        """As whoever asks for the run describes it."""
        assert isinstance(tool, Function), "it is found by its name"
        shape = tool.function
        described: Json = {"name": shape.name}
        if shape.description is not None:
            described["description"] = shape.description
        if shape.parameters is not None:
            described["parameters"] = shape.parameters
        return {"type": "function", "function": described}

    async def call(self, context: Context, arguments: str) -> Result:  # noqa: ARG002
        """The model is told of a failure as of a result."""
        called = await self._hosts.call(self._name, arguments)
        return Result(called.output, has_failed=called.has_failed)

    def cite(self, text: str, details: Sequence[Json]) -> list[Json]:  # noqa: ARG002
        return []


def operators_functions(hosts: FunctionHosts) -> dict[str, OperatorsFunction]:
    """All of them, by their names."""
    return {name: OperatorsFunction(hosts, name) for name in sorted(hosts.names)}
