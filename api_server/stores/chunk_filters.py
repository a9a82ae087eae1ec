"""What Qdrant filters chunks by. Pure.

Attributes are kept twice: as they are, to be shown, and in a form to filter by, whatever
characters their names have: each name with its value is a word in `tags`, and numbers are in
`numbers` as well, under a name of hexadecimal digits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api_server.errors import InvalidRequestError
from api_server.schemas.chunks import Attribute, Attributes, Comparison, Filter

Json = dict[str, Any]


def tags_of(attributes: Attributes) -> list[str]:
    """Each attribute as one word."""
    return [_tag(key, value) for key, value in attributes.items()]


def numbers_of(attributes: Attributes) -> dict[str, float]:
    """Those that are numbers, under names that a path can hold."""
    return {_name(key): value for key, value in attributes.items() if _is_number(value)}  # type: ignore[misc]


def of_chunks(
    app_id: str,
    vector_store_ids: Sequence[str],
    *,
    file_id: str | None = None,
    generation: str | None = None,
    without_generations: Sequence[str] = (),
    by_attributes: Filter | None = None,
) -> Json:
    """The filter of every query: no chunk of another app, or of another store, passes it."""
    must: list[Json] = [_is("app_id", app_id), _is_one_of("vector_store_id", vector_store_ids)]
    if file_id is not None:
        must.append(_is("file_id", file_id))
    if generation is not None:
        must.append(_is("generation", generation))
    if by_attributes is not None:
        must.append(_of_attributes(by_attributes))
    if not without_generations:
        return {"must": must}
    return {"must": must, "must_not": [_is_one_of("generation", without_generations)]}


def _of_attributes(wanted: Filter) -> Json:
    if not isinstance(wanted, Comparison):
        parts = [_of_attributes(each) for each in wanted.filters]
        return {"must" if wanted.type == "and" else "should": parts}
    key, value = wanted.key, wanted.value
    if wanted.type in ("in", "nin"):
        if not isinstance(value, list):
            raise _wrong(wanted, "a list of values")
        among = _is_one_of("tags", [_tag(key, each) for each in value])
        return {"must": [among]} if wanted.type == "in" else {"must_not": [among]}
    if isinstance(value, list):
        raise _wrong(wanted, "one value")
    if wanted.type in ("eq", "ne"):
        is_same = _is("tags", _tag(key, value))
        return {"must": [is_same]} if wanted.type == "eq" else {"must_not": [is_same]}
    if not _is_number(value):
        raise _wrong(wanted, "a number")
    return {"must": [{"key": f"numbers.{_name(key)}", "range": {wanted.type: value}}]}


def _wrong(comparison: Comparison, needed: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"filters: {comparison.type!r} of {comparison.key[:64]!r} needs {needed}.", param="filters"
    )


def _is(key: str, value: str) -> Json:
    return {"key": key, "match": {"value": value}}


def _is_one_of(key: str, values: Sequence[str]) -> Json:
    return {"key": key, "match": {"any": list(values)}}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tag(key: str, value: Attribute) -> str:
    """The same for 5 and 5.0, another for "5" and for True."""
    told = float(value) if _is_number(value) else value
    return msgspec.json.encode([key, told]).decode()


def _name(key: str) -> str:
    return f"k{key.encode('utf-8', 'surrogatepass').hex()}"


def payload_of(attributes: Attributes) -> Mapping[str, object]:
    """All of a payload that comes from attributes."""
    return {
        "attributes": attributes,
        "tags": tags_of(attributes),
        "numbers": numbers_of(attributes),
    }
