"""Calls of functions that runs have made, in PostgreSQL. `stores.run_changes` writes them."""

from api_server.schemas.paging import Page
from api_server.stores.paging import page_of
from api_server.stores.postgres import Postgres, queries
from api_server.stores.run_rows import Action, ActionStatus, read_row

_SQL = queries("actions")


class ActionStore:
    """Raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def listed(
        self,
        app_id: str,
        user: str | None,
        page: Page,
        *,
        status: ActionStatus | None = None,
        thread_id: str | None = None,
    ) -> tuple[list[Action], bool]:
        """A page of an app's, perhaps of one of its users', and whether there are more."""
        scope = (app_id, user, status, thread_id)
        rows, has_more = await page_of(self._postgres, _SQL, "actions", scope, page)
        return [read_row(Action, row) for row in rows], has_more
