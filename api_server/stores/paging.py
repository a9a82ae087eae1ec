"""Pages of rows that are in the order of (created_at, seq).

Two named queries of one store make a list. Their first parameters are the list's scope (an app's
id, a thread's), the same for both:

- `NAME_place`: the `created_at` and `seq` of one row, by its id as the last parameter
- `NAME_page`: rows between two places, without their order. Its last parameters are `(after_at,
  after_seq, before_at, before_seq)`; both bounds are left out themselves, and are beyond all rows
  where there is none.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from api_server.errors import InvalidRequestError
from api_server.schemas.paging import Page
from api_server.stores.postgres import Postgres, Row

Place = tuple[datetime, int]

FIRST: Place = (datetime(1, 1, 2, tzinfo=UTC), -1)
LAST: Place = (datetime(9999, 12, 30, tzinfo=UTC), 2**62)


async def page_of(
    postgres: Postgres,
    sql: Mapping[str, str],
    name: str,
    scope: Sequence[object],
    page: Page,
) -> tuple[list[Row], bool]:
    """The rows of a page in the order asked for, and whether the list goes on in its direction.

    Raises `InvalidRequestError` for an `after` or `before` that is not in this list.
    """
    after = await _place(postgres, sql, name, scope, page.after, "after")
    before = await _place(postgres, sql, name, scope, page.before, "before")
    is_up = page.order == "asc"
    low, high = (after or FIRST, before or LAST) if is_up else (before or FIRST, after or LAST)
    is_backwards = before is not None and after is None  # the page that ends at `before`
    order = "created_at, seq" if is_up != is_backwards else "created_at desc, seq desc"
    query = f"{sql[f'{name}_page']} order by {order} limit ${len(scope) + 5}"
    rows = await postgres.fetch(query, *scope, *low, *high, page.limit + 1)
    found = rows[: page.limit]
    return (found[::-1] if is_backwards else found), len(rows) > page.limit


async def _place(
    postgres: Postgres,
    sql: Mapping[str, str],
    name: str,
    scope: Sequence[object],
    id_: str | None,
    param: str,
) -> Place | None:
    if id_ is None:
        return None
    row = None if "\0" in id_ else await postgres.fetchrow(sql[f"{name}_place"], *scope, id_)
    if row is None:
        raise InvalidRequestError(
            f"{param}: there is no {id_[:100]!r} in this list; give the id of one of its objects.",
            param=param,
        )
    return row["created_at"], row["seq"]
