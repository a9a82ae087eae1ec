"""Tools that the stack itself calls for a run; all others are a client's to answer.

Two kinds of entries of a run's `tools` are done here: a built-in one (`file_search`), by its type,
and functions that the operator registered, by their names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from api_server.schemas.apps import Caller
from api_server.schemas.assistants import FileSearch, Function, Tool, ToolResources

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """For whom a tool is called. The thread's resources come before the assistant's."""

    caller: Caller
    thread_id: str
    run_id: str
    tool: Tool
    resources: ToolResources
    thread_resources: ToolResources


@dataclass(frozen=True, slots=True)
class Result:
    """`output` is for the model; `details` is what the step shows of the call under the tool's
    type (a function's step shows its output instead).
    """

    output: str
    details: Json = field(default_factory=dict)
    has_failed: bool = False


class ServerTool(Protocol):
    """A tool that is done here."""

    type: str
    """`function` or the type of a built-in tool."""

    def definition(self, tool: Tool) -> Json:
        """The function that the model is shown, as in `tools` of a chat."""
        ...

    async def call(self, context: Context, arguments: str) -> Result:
        """Do it. May be cancelled; may be called again for a call whose caller died.

        `arguments` is what the model wrote, JSON or not. The model is told of every error, a
        dependency that is away included: what one tool needs is no reason to stop runs.
        """
        ...

    def cite(self, text: str, details: Sequence[Json]) -> list[Json]:
        """The annotations of a whole text of the run, by the `details` of this tool's calls."""
        ...


class Tools:
    """Those that this stack has. `functions` by name, `built_in` by type."""

    def __init__(
        self,
        functions: Mapping[str, ServerTool] | None = None,
        built_in: Mapping[str, ServerTool] | None = None,
    ) -> None:
        self.functions = dict(functions or {})
        self.built_in = dict(built_in or {})

    def find(self, tool: Tool) -> ServerTool | None:
        """Who does it here; None for a client's."""
        if isinstance(tool, Function):
            return self.functions.get(tool.function.name)
        if isinstance(tool, FileSearch):
            return self.built_in.get("file_search")
        return None

    def by_name(self, tools: Sequence[Tool]) -> dict[str, tuple[ServerTool, Tool]]:
        """Those of a run that are done here, by the names that the model calls."""
        found = {}
        for tool in tools:
            server_tool = self.find(tool)
            if server_tool is not None:
                found[server_tool.definition(tool)["function"]["name"]] = (server_tool, tool)
        return found
