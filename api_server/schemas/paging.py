"""Pages of lists, as OpenAI has them: by the ids of the objects at their ends."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

MOST_LISTED = 100
USUALLY_LISTED = 20

Order = Literal["asc", "desc"]


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is wanted: `limit` objects behind `after`, or those before `before`."""

    limit: int = USUALLY_LISTED
    order: Order = "desc"
    after: str | None = None
    before: str | None = None


def list_answer(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object. Its reference allows no null for the ids of an empty one. Pure."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": has_more,
    }
