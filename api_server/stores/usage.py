"""The table `usage`: takes rows as the JSON that the ledger's lines are, and answers reports."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import asyncpg

from api_server.errors import DependencyDownError, RowsRefusedError
from api_server.stores.postgres import Connection, Postgres, queries

INSERT_SECONDS = 10.0
REPORT_SECONDS = 30.0
DROP_SECONDS = 30.0
TROUBLE_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UsageLine:
    """A line of a report. What was not asked for by name is None: it is summed over.

    `failed` are requests that did not end well, departed clients among them; `cache_hits` are those
    that our cache answered, whose tokens are in no sum; `estimated_tokens` is how many of the
    tokens no engine has counted.
    """

    day: date | None
    app: str | None
    model: str | None
    requests: int
    failed: int
    cache_hits: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated_tokens: int


class UsageStore:
    """Raises `DependencyDownError` where PostgreSQL is away."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._sql = queries("usage")

    async def insert(self, rows: Sequence[bytes], months: Sequence[date]) -> None:
        """Take rows, each a JSON object, of these months; one that is there already is left alone.

        Raises `RowsRefusedError` where one of them can be no row; then none was taken.
        """
        await self._insert("insert", rows, months)

    async def insert_content(self, rows: Sequence[bytes], months: Sequence[date]) -> None:
        """The same for what was said in requests."""
        await self._insert("insert_content", rows, months)

    async def _insert(self, query: str, rows: Sequence[bytes], months: Sequence[date]) -> None:
        document = (b"[" + b",".join(rows) + b"]").decode("utf-8", "replace")

        async def insert(connection: Connection) -> None:
            await connection.execute(self._sql["make_partitions"], months)
            await connection.execute(self._sql[query], document)

        try:
            await self._postgres.use(insert, budget_seconds=INSERT_SECONDS)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as exc:
            if isinstance(exc, asyncpg.CheckViolationError):  # no partition: somebody dropped it
                raise DependencyDownError("postgres") from exc
            raise RowsRefusedError(str(exc)) from exc
        except asyncpg.PostgresError as exc:  # no table, no right, a deadlock: later, perhaps
            log.warning("the ledger cannot be written", extra={"error": str(exc)})
            raise DependencyDownError("postgres", retry_after_seconds=TROUBLE_SECONDS) from exc

    async def drop_before(self, kept_from: datetime) -> int:
        """Drop the months that ended before then; how many that were."""
        try:
            row = await self._postgres.fetchrow(
                self._sql["drop_before"], kept_from, budget_seconds=DROP_SECONDS
            )
        except asyncpg.PostgresError as exc:  # a report holds the lock
            log.warning("old months were not dropped", extra={"error": str(exc)})
            raise DependencyDownError("postgres", retry_after_seconds=TROUBLE_SECONDS) from exc
        return int(row[0]) if row is not None else 0

    async def report(
        self,
        by: Sequence[str],
        since: datetime,
        until: datetime,
        *,
        app: str | None = None,
        model: str | None = None,
        most: int = 10_000,
    ) -> list[UsageLine]:
        """Sums over requests that arrived from `since` on and before `until`, at most so many
        lines; `by` holds any of day, app, model. `app` is a name or an id.
        """
        rows = await self._postgres.fetch(
            self._sql["report"],
            *(list(by), since, until, app, model, most),
            budget_seconds=REPORT_SECONDS,
        )
        return [UsageLine(**dict(row)) for row in rows]
