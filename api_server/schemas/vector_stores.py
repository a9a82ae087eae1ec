"""The bodies of `/v1/vector_stores`: fields that they do not have are refused."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from api_server.schemas.assistants import Id, Metadata
from api_server.schemas.chunks import Chunking

MOST_FILES_AT_ONCE = 500
MOST_FILES_OF_BATCH = 2000
MOST_CONDITIONS = 64

Name = Annotated[str, msgspec.Meta(max_length=1024)]
AttributeName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
AttributeText = Annotated[str, msgspec.Meta(max_length=512)]
FileAttributes = Annotated[
    dict[AttributeName, AttributeText | float | bool], msgspec.Meta(max_length=16)
]
FileIds = Annotated[list[Id], msgspec.Meta(max_length=MOST_FILES_AT_ONCE)]


class ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: Literal["last_active_at"]
    days: Annotated[int, msgspec.Meta(ge=1, le=365)]


class NewVectorStore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores`."""

    name: Name | None = None
    description: Name | None = None
    file_ids: FileIds | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: Chunking | None = None
    metadata: Metadata | None = None


class VectorStoreChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores/{vector_store_id}`: what is sent is written."""

    name: Name | UnsetType | None = UNSET
    expires_after: ExpiresAfter | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET


class NewStoreFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores/{vector_store_id}/files`, and one of a batch."""

    file_id: Id
    attributes: FileAttributes | None = None
    chunking_strategy: Chunking | None = None


class NewFileBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores/{vector_store_id}/file_batches`: `file_ids`, or `files`."""

    file_ids: Annotated[list[Id], msgspec.Meta(max_length=MOST_FILES_OF_BATCH)] | None = None
    files: Annotated[list[NewStoreFile], msgspec.Meta(max_length=MOST_FILES_OF_BATCH)] | None = None
    attributes: FileAttributes | None = None
    chunking_strategy: Chunking | None = None


class AttributesChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores/{vector_store_id}/files/{file_id}`: instead of those there are."""

    attributes: FileAttributes | None


class Ranking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


Question = Annotated[str, msgspec.Meta(min_length=1, max_length=32_768)]


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A filter by attributes: with a `key` and a `value`, or `and` and `or` with `filters`."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"]
    key: AttributeName | UnsetType = UNSET
    value: str | float | bool | list[str | float | bool] | UnsetType = UNSET
    filters: "list[Condition] | UnsetType" = UNSET


class SearchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/vector_stores/{vector_store_id}/search`. `rewrite_query` is accepted: questions
    are searched for as they are.
    """

    query: Question | Annotated[list[Question], msgspec.Meta(min_length=1, max_length=16)]
    max_num_results: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10
    filters: Condition | None = None
    ranking_options: Ranking | None = None
    rewrite_query: bool = False
