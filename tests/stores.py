"""Real PostgreSQL and Redis for the tests, started once for a test session, each test alone in it.

The programs are those that `make local` would run, the machine's or the installed ones.
A test gets a database of its own, copied from one to which all migrations were applied, and a Redis
that is empty.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg
import redis

from api_server.local import redis_server
from api_server.local.postgres_cluster import (
    ROLE,
    Cluster,
    make_cluster,
    server_arguments,
    tell_alone,
)
from api_server.local.process import free_port, tether_command
from api_server.local.store_programs import (
    Places,
    PostgresPrograms,
    find_postgres,
    find_redis,
)
from api_server.local.terminal import TerminalSay
from api_server.local.unprivileged import User, unprivileged_user
from api_server.settings import load_environment
from api_server.stores.migrations import migrate
from api_server.stores.readers import ROLE as READER

START_SECONDS = 30
TEMPLATE = "stack_template"
Result = TypeVar("Result")


@dataclass
class Server:
    """One server program under test; it can be killed, paused and started again on its port."""

    argv: list[str]
    port: int
    log_path: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """To it and its children: PostgreSQL serves each connection in a process of its own."""
        assert self.process is not None
        pid = self.process.pid
        for each in (pid, *_children(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


def _run(work: Coroutine[None, None, Result]) -> Result:
    """To its end, in a loop of its own: whoever calls may be in one already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass(frozen=True)
class Programs:
    """What the tests run, chosen as `make local` chooses; `places` is where it may look."""

    places: Places = field(default_factory=Places)
    cache_home: Path = field(default_factory=lambda: load_environment().cache_home)

    def postgres(self, user: User | None) -> PostgresPrograms:
        say = TerminalSay(sys.stderr)
        return _run(
            find_postgres(cache_home=self.cache_home, say=say, user=user, places=self.places)
        )

    def redis(self) -> Path:
        say = TerminalSay(sys.stderr)
        return _run(find_redis(cache_home=self.cache_home, say=say, places=self.places))


class PostgresServer(Server):
    """A cluster in a folder of its own. When root, it runs as another user: PostgreSQL insists."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        user = unprivileged_user()
        found = programs.postgres(user)
        self.cluster = Cluster(folder / "data", user, secrets.token_hex(16))
        # The file system is not waited for; fsync of the server stays on: what survives a kill -9
        # of it is one of the claims.
        _run(make_cluster(found, self.cluster, is_synced=False))
        with (self.cluster.folder / "pg_hba.conf").open("a") as who_may_log_in:
            who_may_log_in.write(f"host all {READER} 127.0.0.1/32 scram-sha-256\n")
        # Also to end an autovacuum that works on a database which a test is done with.
        rights = [f"alter role {ROLE} createrole;", f"grant pg_signal_backend to {ROLE};"]
        _run(tell_alone(found, self.cluster.folder, user, rights))
        port = free_port()
        argv = server_arguments(found, self.cluster.folder, port)
        super().__init__(tether_command(argv, user), port, folder / "postgres.log")

    def url(self, database: str) -> str:
        return self.cluster.url(self.port, database)

    def wait(self) -> None:
        """Until it takes connections."""

        async def connect() -> None:
            connection = await asyncpg.connect(self.url("postgres"), timeout=2)
            await connection.close()

        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _run(connect())
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if time.monotonic() > deadline:
                    raise
                if self.process is not None and self.process.poll() is not None:
                    self.start()  # a child of the killed one still held its memory
                time.sleep(0.05)

    def command(self, *statements: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url("postgres"))
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        _run(run())

    def make_template(self) -> None:
        self.command(f"create database {TEMPLATE}")
        _run(migrate(self.url(TEMPLATE)))

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A database with all tables, gone afterwards; its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.command(f"create database {name} template {TEMPLATE}")
        try:
            yield self.url(name)
        finally:
            if self.process is not None:
                self.command(f"drop database if exists {name} with (force)")


class RedisServer(Server):
    """A Redis without persistence."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        port, self.password = free_port(), secrets.token_hex(16)
        path = folder / "redis.conf"
        path.write_text(redis_server.configuration(port, self.password, folder))
        argv = redis_server.server_arguments(programs.redis(), path)
        super().__init__(tether_command(argv), port, folder / "redis.log")

    @property
    def url(self) -> str:
        return redis_server.url(self.port, self.password)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.empty()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@contextlib.contextmanager
def running_postgres(programs: Programs | None = None) -> Iterator[PostgresServer]:
    """A server of one's own, for tests that kill or pause it; its template has all tables."""
    with tempfile.TemporaryDirectory(prefix="stack-pg-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), programs or Programs())
        server.start()
        try:
            server.wait()
            server.make_template()
            yield server
        finally:
            server.resume() if server.process is not None else None
            server.kill()


@contextlib.contextmanager
def running_redis(programs: Programs | None = None) -> Iterator[RedisServer]:
    """A server of one's own, for tests that kill or pause it."""
    with tempfile.TemporaryDirectory(prefix="stack-redis-") as folder:
        server = RedisServer(Path(folder), programs or Programs())
        server.start()
        try:
            server.wait()
            yield server
        finally:
            server.resume() if server.process is not None else None
            server.kill()
