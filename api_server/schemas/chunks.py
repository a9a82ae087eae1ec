"""A chunk of a file as the vector database keeps it, how files are cut into chunks, and filters by
attributes of files.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

Attribute = str | float | bool
Attributes = Mapping[str, Attribute]


class Chunk(msgspec.Struct, frozen=True):
    """`n` counts from 0 in its file; `start` and `end` are characters of the file's text.

    `generation` names the attempt that took the file in.
    """

    app_id: str
    vector_store_id: str
    file_id: str
    generation: str
    n: int
    text: str
    start: int
    end: int
    filename: str
    attributes: dict[str, str | float | bool] = {}


class Point(msgspec.Struct, frozen=True):
    """A chunk with its vector, under an id of its own: a UUID."""

    id: str
    vector: Sequence[float]
    chunk: Chunk


class Hit(msgspec.Struct, frozen=True):
    """What a search found; the higher the score, the nearer: 1 is the same."""

    id: str
    score: float
    chunk: Chunk


class Comparison(msgspec.Struct, frozen=True):
    """One attribute against a value; `in` and `nin` have a list of them."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: str
    value: str | float | bool | list[str | float | bool]


class Compound(msgspec.Struct, frozen=True):
    """Several filters, of which all or one must hold."""

    type: Literal["and", "or"]
    filters: "list[Comparison | Compound]"


Filter = Comparison | Compound


class StaticSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_chunk_size_tokens: Annotated[int, msgspec.Meta(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, msgspec.Meta(ge=0)]


class AutoChunking(
    msgspec.Struct, tag_field="type", tag="auto", frozen=True, forbid_unknown_fields=True
):
    pass


class StaticChunking(
    msgspec.Struct, tag_field="type", tag="static", frozen=True, forbid_unknown_fields=True
):
    static: StaticSizes


Chunking = AutoChunking | StaticChunking
