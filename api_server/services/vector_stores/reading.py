"""Bodies for vector stores, checked beyond their shapes. Pure."""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from api_server.errors import InvalidRequestError
from api_server.schemas.chunks import (
    Chunking,
    Comparison,
    Compound,
    Filter,
    StaticChunking,
)
from api_server.schemas.vector_stores import (
    MOST_CONDITIONS,
    Condition,
    NewFileBatch,
    NewStoreFile,
    SearchBody,
)
from api_server.services.assistants.rules import read_kept
from api_server.services.reading import check_storable

T = TypeVar("T")

STATUSES = ("in_progress", "completed", "failed", "cancelled")
DEEPEST = 8


def read_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A body whose texts are to be kept. Raises `InvalidRequestError` that names the field."""
    return read_kept(body or b"{}", decoder)


def check_status(status: str | None) -> str | None:
    """The `filter` of a list of files."""
    if status is not None and status not in STATUSES:
        raise InvalidRequestError(f"filter: must be one of {', '.join(STATUSES)}.", param="filter")
    return status


def check_chunking(chunking: Chunking | None) -> Chunking | None:
    """Raises `InvalidRequestError` for chunks that repeat more than half of the one before."""
    if isinstance(chunking, StaticChunking):
        sizes = chunking.static
        if sizes.chunk_overlap_tokens > sizes.max_chunk_size_tokens // 2:
            raise InvalidRequestError(
                "chunking_strategy: chunk_overlap_tokens must be no more than half of "
                "max_chunk_size_tokens.",
                param="chunking_strategy",
            )
    return chunking


def files_of(batch: NewFileBatch) -> list[NewStoreFile]:
    """Of a batch, with what it says for all of them. Raises `InvalidRequestError`."""
    if (batch.file_ids is None) == (batch.files is None):
        raise InvalidRequestError("Give either file_ids or files.", param="file_ids")
    files = batch.files
    if files is None:
        files = [
            NewStoreFile(id_, batch.attributes, batch.chunking_strategy)
            for id_ in batch.file_ids or ()
        ]
    if not files:
        param = "file_ids" if batch.files is None else "files"
        raise InvalidRequestError(f"{param}: names no file.", param=param)
    unique = {each.file_id: each for each in files}
    for each in unique.values():
        check_chunking(each.chunking_strategy)
    return list(unique.values())


def questions_of(search: SearchBody) -> list[str]:
    """What is searched for."""
    questions = [search.query] if isinstance(search.query, str) else list(search.query)
    for each in questions:
        check_storable(each, "query")
        if not each.strip():
            raise InvalidRequestError("query: must not be empty.", param="query")
    return questions


def filter_of(told: Condition | None) -> Filter | None:
    """Raises `InvalidRequestError` for one that is too deep, too long, or half of each kind."""
    if told is None:
        return None
    wanted = _filter(told, 1)
    if _size(wanted) > MOST_CONDITIONS:
        raise _wrong(f"has more than {MOST_CONDITIONS} conditions")
    return wanted


def _filter(told: Condition, depth: int) -> Filter:
    if depth > DEEPEST:
        raise _wrong(f"is deeper than {DEEPEST} levels")
    if told.type in ("and", "or"):
        if isinstance(told.filters, UnsetType) or not told.filters or told.key is not UNSET:
            raise _wrong(f"{told.type!r} needs filters, and no key")
        return Compound(told.type, [_filter(each, depth + 1) for each in told.filters])
    if isinstance(told.key, UnsetType) or isinstance(told.value, UnsetType):
        raise _wrong(f"{told.type!r} needs a key and a value")
    return Comparison(told.type, told.key, told.value)  # type: ignore[arg-type]


def _wrong(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"filters: {what}.", param="filters")


def _size(wanted: Filter) -> int:
    if isinstance(wanted, Comparison):
        return len(wanted.value) if isinstance(wanted.value, list) else 1
    return sum(_size(each) for each in wanted.filters)
