"""What a body may not ask for, whoever reads it. Pure."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from api_server.errors import InvalidRequestError, NotFoundError
from api_server.inference.catalogue import Catalogue
from api_server.schemas.apps import Caller
from api_server.schemas.assistants import CodeInterpreter, Tool, ToolResources
from api_server.schemas.threads import ImageFilePart, MessageBody, TextPart
from api_server.services.access.permissions import check_model
from api_server.services.reading import check_storable, read_json

T = TypeVar("T")

NO_SANDBOX = (
    "code_interpreter is not served here: no sandbox is configured; this stack runs no code in the "
    "gateway. Leave the tool out."
)
NO_IMAGE_FILES = (
    "image_file: no model of this stack is shown files. Send the image as image_url, which a model "
    "that looks at images is shown."
)
NO_TEXT = "Message content must be non-empty."
MOST_DEPTH = 100
"""Of lists and objects in each other."""

_ANY = msgspec.json.Decoder()


def read_kept(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body whose texts are to be kept. Raises `InvalidRequestError` that names the field."""
    found = read_json(body, decoder)
    may_be_deep = body.count(b"[") + body.count(b"{") > MOST_DEPTH
    if may_be_deep or b"\\u0000" in body:  # JSON has no other way to say it
        _check_values(_ANY.decode(body))
    return found


def check_id(what: str, id_: str) -> str:
    """An id that can be one. Raises `NotFoundError`."""
    if not (id_.isascii() and id_.isprintable() and len(id_) <= 128):
        raise NotFoundError.of(what, id_)
    return id_


def check_text_model(catalogue: Catalogue, caller: Caller, name: str) -> str:
    """A model that the app may use for text. Raises what a chat with it would."""
    check_model(caller, name)  # first: it tells nothing of other models
    model = catalogue.find(name)
    if model.serves != "text":
        raise InvalidRequestError(
            f"The model {model.id!r} serves embeddings, not text; assistants need one for text.",
            param="model",
        )
    return model.id


def check_tools(tools: Iterable[Tool] | None) -> None:
    """Raises `InvalidRequestError` for a tool that is not served."""
    for number, tool in enumerate(tools or ()):
        if isinstance(tool, CodeInterpreter):
            raise InvalidRequestError(NO_SANDBOX, param=f"tools[{number}]")


def check_resources(resources: ToolResources | None, *, may_make: bool) -> None:
    """`may_make`: vector stores may be made on the way. Raises `InvalidRequestError`."""
    if resources is None:
        return
    if resources.code_interpreter is not None:
        raise InvalidRequestError(NO_SANDBOX, param="tool_resources.code_interpreter")
    search = resources.file_search
    if search is None or search.vector_stores is None:
        return
    param = "tool_resources.file_search.vector_stores"
    if not may_make:
        raise InvalidRequestError(
            f"{param}: can be given only on creation; make the vector store first and give its id "
            "in vector_store_ids.",
            param=param,
        )
    if search.vector_store_ids is not None:
        raise InvalidRequestError(
            "tool_resources.file_search: give vector_store_ids or vector_stores, not both.",
            param="tool_resources.file_search",
        )


def check_messages(bodies: Sequence[MessageBody], named: str) -> None:
    """`named` is the list that they are in, "" for the one of a body of its own.

    Raises `InvalidRequestError` for an empty text, for an attachment's tool that is not served, and
    for an image that no model would see: its thread could not be answered any more.
    """
    for at, body in _placed(bodies, named):
        if body.content == "":
            raise InvalidRequestError(NO_TEXT, param=f"{at}content")
        for number, part in enumerate(() if isinstance(body.content, str) else body.content):
            if isinstance(part, TextPart) and not part.text:
                raise InvalidRequestError(NO_TEXT, param=f"{at}content[{number}].text")
            if isinstance(part, ImageFilePart):
                param = f"{at}content[{number}].image_file"
                raise InvalidRequestError(NO_IMAGE_FILES, param=param)
        for number, each in enumerate(body.attachments or ()):
            if any(isinstance(tool, CodeInterpreter) for tool in each.tools):
                raise InvalidRequestError(NO_SANDBOX, param=f"{at}attachments[{number}].tools")


def attached_files(bodies: Sequence[MessageBody], named: str) -> dict[str, str]:
    """The ids of files that are attached, each with where it stands."""
    return {
        each.file_id: f"{at}attachments[{number}].file_id"
        for at, body in _placed(bodies, named)
        for number, each in enumerate(body.attachments or ())
    }


def _placed(bodies: Sequence[MessageBody], named: str) -> Iterable[tuple[str, MessageBody]]:
    return ((f"{named}[{n}]." if named else "", body) for n, body in enumerate(bodies))


def _check_values(body: object) -> None:
    """Without recursion: how deep that may go depends on who calls."""
    left: list[tuple[object, str, int]] = [(body, "", 0)]
    while left:
        value, path, depth = left.pop()
        if depth > MOST_DEPTH:
            param = path.split(".")[0].split("[")[0]
            raise InvalidRequestError(
                f"{param}: is nested more than {MOST_DEPTH} levels deep.", param=param
            )
        if isinstance(value, str):
            check_storable(value, path or "The body")
        elif isinstance(value, list):
            left += [(each, f"{path}[]", depth + 1) for each in value]
        elif isinstance(value, dict):
            for key, each in value.items():
                check_storable(key, path or "The body")
                left.append((each, f"{path}.{key[:100]}".lstrip("."), depth + 1))
