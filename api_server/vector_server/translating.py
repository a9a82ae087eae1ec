"""From Qdrant's JSON to the types of its engine, as far as the stack uses them. Pure."""

from typing import Any

import qdrant_edge as edge

from api_server.vector_server.refusing import RequestRefused

BOUNDS = {"gt", "gte", "lt", "lte"}


def filter_of(told: Any) -> edge.Filter:
    """Raises `RequestRefused` for what this server does not know: it never leaves a part out."""
    if not isinstance(told, dict) or not told or set(told) - {"must", "should", "must_not"}:
        raise RequestRefused(400, "Format error in JSON body: this is no filter known here")
    parts = {name: [_condition(each) for each in conditions] for name, conditions in told.items()}
    return edge.Filter(**parts)


def _condition(told: Any) -> Any:
    match told:
        case {"key": str(key), "match": {"value": str(value)}, **rest} if not rest:
            return edge.FieldCondition(key=key, match=edge.MatchValue(value=value))
        case {"key": str(key), "match": {"any": [*values]}, **rest} if not rest:
            return edge.FieldCondition(key=key, match=edge.MatchAny(any=values))
        case {"key": str(key), "range": {**bounds}, **rest} if (
            not rest and not set(bounds) - BOUNDS
        ):
            return edge.FieldCondition(
                key=key,
                range=edge.RangeFloat(**{str(name): bound for name, bound in bounds.items()}),
            )
    return filter_of(told)


def point_of(told: Any, size: int) -> edge.Point:
    """Of an id, a vector of the collection's size, a payload."""
    match told:
        case {"id": str(id_), "vector": [*vector], "payload": {**payload}}:
            check_size(vector, size)
            return edge.Point(id_, vector, payload)
    raise RequestRefused(400, "Format error in JSON body: a point needs id, vector, payload")


def check_size(vector: Any, size: int) -> None:
    """Raises `RequestRefused` in Qdrant's words."""
    if not isinstance(vector, list) or len(vector) != size:
        got = len(vector) if isinstance(vector, list) else "no list"
        raise RequestRefused(
            400, f"Wrong input: Vector dimension error: expected dim: {size}, got {got}"
        )
