"""PostgreSQL through asyncpg: a pool behind a `Dependency`, named queries, notifications."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from api_server.errors import DependencyDownError
from api_server.stores.dependency import Dependency

T = TypeVar("T")
Row = asyncpg.Record
Connection: TypeAlias = "PoolConnectionProxy[Row]"
"""What work is given: a connection of the pool, lent."""


SQL = Path(__file__).parent / "sql"
BUDGET_SECONDS = 2.0
CONNECT_SECONDS = 2.0
CLOSE_SECONDS = 1.0
IDLE_IN_TRANSACTION_SECONDS = 15
LISTEN_CHECK_SECONDS = 15.0
AGAIN_SECONDS = (0.05, 0.2)
"""After a deadlock: whoever waited for our locks must have them before we take them again."""

FAULTS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection whose server died in the middle of something
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
)


def queries(name: str) -> Mapping[str, str]:
    """The named queries of `sql/NAME.sql`: each begins with a line `-- name: find_app`."""
    found: dict[str, str] = {}
    for part in (SQL / f"{name}.sql").read_text(encoding="utf-8").split("-- name: ")[1:]:
        title, _, text = part.partition("\n")
        found[title.strip()] = text.strip()
    return found


class Postgres:
    """A pool of connections. Nothing connects before the first call; each has a time budget.

    Raises `DependencyDownError` where the server is away; other errors are asyncpg's own, for the
    store that knows what its query may run into.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.dependency = Dependency("postgres", FAULTS)
        self._url = url
        self._pool_size = pool_size
        self._pool: asyncpg.Pool[Row] | None = None
        self._opening = asyncio.Lock()
        self._turns = asyncio.Semaphore(pool_size)

    async def fetch(
        self, query: str, *values: object, budget_seconds: float = BUDGET_SECONDS
    ) -> list[Row]:
        async def run(connection: Connection) -> list[Row]:
            return await connection.fetch(query, *values)

        return await self.use(run, budget_seconds=budget_seconds)

    async def fetchrow(
        self, query: str, *values: object, budget_seconds: float = BUDGET_SECONDS
    ) -> Row | None:
        async def run(connection: Connection) -> Row | None:
            return await connection.fetchrow(query, *values)

        return await self.use(run, budget_seconds=budget_seconds)

    async def execute(
        self, query: str, *values: object, budget_seconds: float = BUDGET_SECONDS
    ) -> str:
        async def run(connection: Connection) -> str:
            return await connection.execute(query, *values)

        return await self.use(run, budget_seconds=budget_seconds)

    async def executemany(
        self,
        query: str,
        rows: Sequence[Sequence[object]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        async def run(connection: Connection) -> None:
            await connection.executemany(query, rows)

        await self.use(run, budget_seconds=budget_seconds)

    async def transaction(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
        is_one_statement: bool = False,
    ) -> T:
        """Do it all or nothing. After a `DependencyDownError` it may have happened all the same.

        `work` is called again where it was undone for the sake of another transaction, since both
        waited for each other. One statement is a transaction by itself: two ways less to go.
        """

        async def once(connection: Connection) -> T:
            if is_one_statement:
                return await work(connection)
            async with connection.transaction():
                return await work(connection)

        async def run(connection: Connection) -> T:
            for pause in AGAIN_SECONDS:
                try:
                    return await once(connection)
                except asyncpg.DeadlockDetectedError:
                    await asyncio.sleep(pause)
            return await once(connection)

        return await self.use(run, budget_seconds=budget_seconds)

    async def use(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> T:
        """Lend a connection for as long as the work takes.

        Whoever gets none within the budget, for all of them are at work, is told that the server is
        away as well; but that the server is not is known by those who have one.
        """

        async def run() -> T:
            if self.dependency.is_on_trial:
                self._drop_pool()
            pool = await self._opened()
            async with pool.acquire() as connection:  # the whole work has the budget
                return await work(connection)

        await self._turn(budget_seconds)
        try:
            return await self.dependency.call(run, budget_seconds=budget_seconds)
        finally:
            self._turns.release()

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call `heard` with each notification, on a connection of its own, until it is lost.

        Returns then; raises what connecting raises. The caller goes on by asking now and then.
        """
        connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(channel, lambda *told: heard(str(told[-1])))
            while not lost.is_set():
                try:
                    async with asyncio.timeout(LISTEN_CHECK_SECONDS):
                        await lost.wait()
                except TimeoutError:  # a connection may be dead without a word
                    await connection.execute("select 1", timeout=CONNECT_SECONDS)
        finally:
            connection.terminate()

    async def aclose(self) -> None:
        """Close the connections, in order where the server answers."""
        await self.dependency.aclose()
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
            await asyncio.sleep(0)  # so that the loop closes the sockets

    async def _turn(self, budget_seconds: float) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once, and without a timer
            return
        try:
            async with asyncio.timeout(budget_seconds):
                await self._turns.acquire()
        except TimeoutError as exc:
            raise DependencyDownError(self.dependency.name, retry_after_seconds=1) from exc

    async def _opened(self) -> "asyncpg.Pool[Row]":
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._url,
                        connect=self._connect,
                        min_size=0,
                        max_size=self._pool_size,
                        timeout=CONNECT_SECONDS,
                        max_inactive_connection_lifetime=60.0,
                        reset=_leave,
                    )
        return self._pool

    def _drop_pool(self) -> None:
        """After an outage its connections may be dead without knowing it; nobody waits for them."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def _connect(self, *where: Any, **options: Any) -> "asyncpg.Connection[Row]":
        """For the pool: what waited for its turn while the server went away leaves it alone."""
        if not self.dependency.may_connect:
            raise asyncpg.InterfaceError("no new connections while the server is away")
        connection: asyncpg.Connection[Row] = await asyncpg.connect(*where, **options)
        try:
            # A process that is stopped in the middle of a transaction must not hold its locks.
            await connection.execute(
                f"set idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_SECONDS}s'",
                timeout=CONNECT_SECONDS,
            )
        except BaseException:  # given up as well: nobody else knows of this connection
            connection.terminate()
            raise
        return connection


async def _leave(connection: "asyncpg.Connection[Row]") -> None:
    """Given back as it is: no work changes its session, and to reset it would take as long as a
    query, and undo what `_connect` set. A transaction that was left open is rolled back before.
    """
