"""The tool `file_search` of runs: implements `runs.tools.ServerTool`."""

from typing import Any

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import FileSearch, FileSearchOptions, ToolResources
from api_server.services.reading import check_storable
from api_server.services.vector_stores.citing import details_of, output_of
from api_server.services.vector_stores.searching import Searching, Wish

Json = dict[str, Any]

USUAL_RESULTS = 20
RANKER = "default_2024_08_21"
NO_STORES = "There are no files to search in: neither the thread nor the assistant has any."
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


async def search_files(
    searching: Searching,
    caller: Caller,
    options: FileSearchOptions | None,
    resources: tuple[ToolResources, ToolResources],
    arguments: str,
) -> tuple[str, Json]:
    """What the model reads, and what the step shows. `resources`: the thread's, the assistant's."""
    options = options or FileSearchOptions()
    ranking = options.ranking_options
    threshold = 0.0 if ranking is None else ranking.score_threshold
    ranker = RANKER if ranking is None or ranking.ranker is None else ranking.ranker
    stores = stores_of(*resources)
    if not stores:
        return NO_STORES, details_of([], ranker, threshold)
    wish = Wish(
        [question_of(arguments)],
        stores,
        options.max_num_results or USUAL_RESULTS,
        threshold,
    )
    details = details_of(await searching.search(caller, wish), ranker, threshold)
    return output_of(details), details


def options_of(tool: object) -> FileSearchOptions | None:
    """Of an entry of a run's tools. Pure."""
    return tool.file_search if isinstance(tool, FileSearch) else None


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
