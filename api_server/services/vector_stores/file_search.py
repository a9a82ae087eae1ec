"""The tool `file_search` of runs: implements `runs.tools.ServerTool`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from api_server.errors import (
    DependencyDownError,
    InvalidRequestError,
    ResourceNotAvailableError,
)
from api_server.observability.metrics import RUN_ROUTE
from api_server.schemas.assistants import FileSearch, FileSearchOptions, Tool, ToolResources
from api_server.services.reading import check_storable
from api_server.services.runs.tools import Context, Result
from api_server.services.vector_stores.citing import citations, details_of, output_of
from api_server.services.vector_stores.searching import Searching, Wish

Json = dict[str, Any]

USUAL_RESULTS = 20
RANKER = "default_2024_08_21"
NO_STORES = "There are no files to search in: neither the thread nor the assistant has any."
AWAY = (
    "The files cannot be searched now. Say so, and do not answer from memory what they should tell."
)
LONGEST_QUESTION = 4096

DEFINITION: Json = {
    "type": "function",
    "function": {
        "name": "file_search",
        "description": (
            "Searches the files that the user gave for passages that answer a question. Use it "
            "before you answer anything that the files may tell."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "The question, in full words."}
            },
            "required": ["query"],
        },
    },
}


class _Arguments(msgspec.Struct):
    query: str


_arguments = msgspec.json.Decoder(_Arguments)


class FileSearchTool:
    """Implements `runs.tools.ServerTool`."""

    type = "file_search"

    def __init__(self, searching: Searching) -> None:
        self._searching = searching

    def definition(self, tool: Tool) -> Json:  # noqa: ARG002
        """The same for all."""
        return DEFINITION

    async def call(self, context: Context, arguments: str) -> Result:
        """The passages that are nearest to what the model asks, in the thread's and the assistant's
        vector stores. Raises `ApiError`, with words for the model while a store is away.
        """
        options = FileSearchOptions()
        if isinstance(context.tool, FileSearch):
            options = context.tool.file_search or options
        ranking = options.ranking_options
        threshold = 0.0 if ranking is None else ranking.score_threshold
        ranker = RANKER if ranking is None or ranking.ranker is None else ranking.ranker
        stores = stores_of(context.thread_resources, context.resources)
        if not stores:
            return Result(NO_STORES, details_of([], ranker, threshold))
        limit = options.max_num_results or USUAL_RESULTS
        wish = Wish([question_of(arguments)], stores, limit, threshold)
        try:
            found = await self._searching.search(context.caller, wish, route=RUN_ROUTE)
        except DependencyDownError as exc:
            raise ResourceNotAvailableError(AWAY) from exc
        details = details_of(found, ranker, threshold)
        return Result(output_of(details), details)

    def cite(self, text: str, details: Sequence[Json]) -> list[Json]:
        """`file_citation` for each mark that stands in the text."""
        return citations(text, details)


def stores_of(thread: ToolResources, assistant: ToolResources) -> list[str]:
    """The vector stores that are searched, the thread's first, each once. Pure."""
    searched = [each.file_search for each in (thread, assistant)]
    ids = [id_ for each in searched if each is not None for id_ in each.vector_store_ids or ()]
    return list(dict.fromkeys(ids))


def question_of(arguments: str) -> str:
    """What the model asks, also where it wrote no JSON. Raises `InvalidRequestError`. Pure."""
    try:
        question = _arguments.decode(arguments).query
    except (msgspec.DecodeError, UnicodeEncodeError):
        question = arguments.strip().strip("{}")
    check_storable(question, "query")
    if not question.strip():
        raise InvalidRequestError('Call file_search with {"query": "..."}.', param="query")
    return question[:LONGEST_QUESTION]
