"""The role that panels read with: what it may do, and what not."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from api_server.errors import SetupError, StoreAwayError
from api_server.local.process import free_port
from api_server.settings import load_settings
from api_server.stores.readers import LOCK, READABLE, ROLE, let_read
from tests.stores import PostgresServer

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def url_of_reader(url: str, password: str) -> str:
    """The same database, for the role."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{ROLE}:{password}@{parts.hostname}:{parts.port}").geturl()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url, timeout=5, command_timeout=5)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def reader(url: str) -> AsyncIterator[Connection]:
    password = secrets.token_hex(16)
    await let_read(url, password)
    async with connected(url_of_reader(url, password)) as connection:
        # Whoever can send statements can do that too; so the rights alone must be enough.
        await connection.execute("set default_transaction_read_only = off")
        yield connection


async def test_it_reads_what_panels_need(postgres_url: str) -> None:
    async with reader(postgres_url) as connection:
        for table, columns in READABLE.items():
            assert await connection.fetch(f"select {', '.join(columns)} from {table}") is not None
        apps = await connection.fetch("select name from apps order by 1")
        assert [row["name"] for row in apps] == ["anyone", "development"]


@pytest.mark.parametrize(
    "statement",
    [
        "select hash from app_credentials",
        "select hint from app_credentials",
        "select policy from apps",
        "select * from usage",
        "select end_user from usage",
        "select request from usage_content",
        "select chat from jobs",
        "select response from jobs",
        "select user_name from jobs",
        "select idempotency_key from jobs",
        "select rolpassword from pg_authid",
        "insert into apps (id, name) values ('app_mine', 'mine')",
        "update apps set name = 'mine'",
        "delete from usage",
        "truncate jobs",
        "drop table jobs",
        "create table mine (number integer)",
        "create temporary table mine (number integer)",
        "create schema mine",
        "create role mine",
        "alter role stack password 'mine'",
        "select make_usage_partition('2030-01-01'::date)",
        "select nextval('job_clock')",
        "select pg_read_file('/etc/passwd')",
        "copy (select 1) to program 'true'",
        "set role stack",
        "set session authorization stack",
    ],
)
async def test_it_may_do_nothing_else(postgres_url: str, statement: str) -> None:
    async with reader(postgres_url) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_it_reads_only_and_not_for_long_unless_it_says_so(postgres_url: str) -> None:
    password = secrets.token_hex(16)
    await let_read(postgres_url, password)
    async with connected(url_of_reader(postgres_url, password)) as connection:
        assert await connection.fetchval("show default_transaction_read_only") == "on"
        assert await connection.fetchval("show statement_timeout") == "15s"


async def test_it_is_made_once_and_takes_a_new_password(postgres_url: str) -> None:
    first, second = secrets.token_hex(16), secrets.token_hex(16)
    await let_read(postgres_url, first)
    assert await let_read(postgres_url, second) is False
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url_of_reader(postgres_url, first), timeout=5)
    async with connected(url_of_reader(postgres_url, second)) as connection:
        assert await connection.fetchval("select current_user") == ROLE


async def test_rights_that_it_had_before_go(postgres_url: str) -> None:
    await let_read(postgres_url, secrets.token_hex(16))
    async with connected(postgres_url) as owner:
        await owner.execute(f"grant all on app_credentials, apps to {ROLE}")
    async with reader(postgres_url) as connection:
        for statement in ("select hash from app_credentials", "delete from apps"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_three_at_the_same_time(postgres_url: str) -> None:
    password = secrets.token_hex(16)
    await asyncio.gather(*(let_read(postgres_url, password) for _ in range(3)))
    async with connected(url_of_reader(postgres_url, password)) as connection:
        assert await connection.fetchval("select count(*) from usage") == 0


async def test_the_password_is_not_in_the_log(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    password = secrets.token_hex(16)
    async with connected(postgres_url) as owner:
        await owner.execute("alter table usage rename to moved")
    with pytest.raises(SetupError, match="could not be made: UndefinedTableError"):
        await let_read(postgres_url, password)
    assert password not in postgres_server.log_path.read_text()
    assert "grant select" in postgres_server.log_path.read_text()


async def test_a_server_that_is_away() -> None:
    with pytest.raises(StoreAwayError, match="does not answer"):
        await let_read(f"postgresql://stack:x@127.0.0.1:{free_port()}/stack", "secret")


async def test_a_server_that_goes_away_in_the_middle(postgres_url: str) -> None:
    """Its error says nothing of rights."""
    waits = "select pid from pg_locks where locktype = 'advisory' and not granted"
    async with connected(postgres_url) as other, other.transaction():
        await other.execute("select pg_advisory_xact_lock($1)", LOCK)
        making = asyncio.create_task(let_read(postgres_url, "x"))
        async with asyncio.timeout(10):
            while (pid := await other.fetchval(waits)) is None:
                await asyncio.sleep(0.05)
        await other.fetchval("select pg_terminate_backend($1)", pid)
        with pytest.raises(StoreAwayError, match="does not answer"):
            await making


def test_the_password_is_not_shown(tmp_path: Path) -> None:
    settings = load_settings(
        {"GRAFANA_POSTGRES_PASSWORD": "a-secret-of-ours", "DATA_DIR": str(tmp_path)}
    )
    assert "a-secret-of-ours" not in repr(settings)
