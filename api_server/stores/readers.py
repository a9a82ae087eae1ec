"""The role that panels read PostgreSQL with: usage and jobs by app, never keys nor what was said.

Made by `prepare-stores`, as it needs a password, and as not every owner of a database may make
roles (that of `make local` may not, and needs none).
"""

import base64
import contextlib
import hashlib
import hmac
import os
from collections.abc import Mapping

import asyncpg

from api_server.errors import SetupError, StoreAwayError
from api_server.stores import postgres
from api_server.stores.postgres import CONNECT_SECONDS

ROLE = "grafana"
CONNECTIONS = 10
STATEMENT_SECONDS = 15

READABLE: Mapping[str, tuple[str, ...]] = {
    "apps": ("id", "name"),
    "usage": (
        *("at", "app_id", "app", "model", "status", "outcome", "error_code", "cache"),
        *("prompt_tokens", "cached_tokens", "completion_tokens", "is_estimate"),
        *("queue_ms", "first_token_ms", "total_ms"),
    ),
    "jobs": (
        *("app_id", "state", "class", "model"),
        *("created_at", "queued_at", "started_at", "finished_at"),
    ),
}
"""Tables and those of their columns that the panels need. Not one more: whoever may look at
Grafana can send statements of his own through it."""

LOCK = 7264127405
"""Two that make the role at the same time would make it twice."""

ROUNDS = 4096
"""Of PBKDF2: what PostgreSQL itself takes."""

_EXISTS = "select exists (select from pg_roles where rolname = $1)"
_DATABASE = "select quote_ident(current_database())"


async def let_read(url: str, password: str) -> bool:
    """Make the role, or give it this password; whether it was made now. What it may read is what
    stands above, whatever it was before.

    Raises `StoreAwayError` where nobody answers, `SetupError` where we may not do that.
    """
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=60)
    except postgres.FAULTS as exc:
        raise _away(exc) from exc
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
            is_there = bool(await connection.fetchval(_EXISTS, ROLE))
            database = await connection.fetchval(_DATABASE)
            kept = verifier(password, os.urandom(16))
            for statement in _statements(database, kept, is_new=not is_there):
                await connection.execute(statement)
    except postgres.FAULTS as exc:
        raise _away(exc) from exc
    except asyncpg.PostgresError as exc:
        raise SetupError(
            f"The role {ROLE}, which reads for panels, could not be made: {type(exc).__name__}. "
            "The user in POSTGRES_URL must be allowed to make roles."
        ) from exc
    finally:
        with contextlib.suppress(*postgres.FAULTS):
            await connection.close(timeout=CONNECT_SECONDS)
    return not is_there


def _away(fault: BaseException) -> StoreAwayError:
    return StoreAwayError(
        f"PostgreSQL does not answer at POSTGRES_URL ({type(fault).__name__}). Start it, or "
        "correct the address."
    )


def verifier(password: str, salt: bytes) -> str:
    """What PostgreSQL keeps of a password (RFC 5802), so that it never sees the password itself,
    nor writes it into its log. ASCII only: other characters would have to be prepared. Pure.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ROUNDS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    told, first, second = (base64.b64encode(each).decode() for each in (salt, stored, server))
    return f"SCRAM-SHA-256${ROUNDS}:{told}${first}:{second}"


def _statements(database: str, kept: str, *, is_new: bool) -> list[str]:
    """All names are ours but the database's, which is quoted. Pure."""
    verb = "create" if is_new else "alter"
    return [
        f"{verb} role {ROLE} login connection limit {CONNECTIONS} password '{kept}'",
        f"alter role {ROLE} set default_transaction_read_only = on",
        f"alter role {ROLE} set statement_timeout = '{STATEMENT_SECONDS}s'",
        f"revoke temporary on database {database} from public",
        "revoke create on schema public from public",
        f"revoke all on all tables in schema public from {ROLE}",
        *(
            f"grant select ({', '.join(columns)}) on {table} to {ROLE}"
            for table, columns in READABLE.items()
        ),
    ]
