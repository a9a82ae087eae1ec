"""Real PostgreSQL and Redis for the tests, started once for a test session, each test alone in it.

A test gets a database of its own, copied from one to which all migrations were applied, and a Redis
that is empty.
"""

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import redis

from api_server.local.process import free_port
from api_server.stores.migrations import migrate

START_SECONDS = 30
TEMPLATE = "stack_template"


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


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _postgres_program(name: str) -> str:
    found = shutil.which(name)
    if found:
        return found
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    raise RuntimeError(f"{name} is not on this machine: install PostgreSQL")


class PostgresServer(Server):
    """A cluster in a folder of its own. When root, it runs as another user: PostgreSQL insists."""

    def __init__(self, folder: Path) -> None:
        as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ["runuser", "-u", "postgres", "--"]
        data = folder / "data"
        subprocess.run(
            [*as_user, _postgres_program("initdb"), "-D", str(data), "-U", "stack", "-A", "trust"],
            check=True,
            capture_output=True,
        )
        port = free_port()
        # fsync stays on: what survives a kill -9 of a server is one of the claims.
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c max_connections=200".split()
        if as_user:  # not runuser, which would stand between us and the server
            user = pwd.getpwnam("postgres")
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            as_user += ["--clear-groups"]
        argv = [*as_user, _postgres_program("postgres"), "-D", str(data), *options]
        super().__init__(argv, port, Path(tempfile.gettempdir()) / f"postgres-{port}.log")

    def url(self, database: str) -> str:
        return f"postgresql://stack@127.0.0.1:{self.port}/{database}"

    def wait(self) -> None:
        """Until it takes connections."""

        async def connect() -> None:
            connection = await asyncpg.connect(self.url("postgres"), timeout=2)
            await connection.close()

        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                asyncio.run(connect())
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def command(self, *statements: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url("postgres"))
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def make_template(self) -> None:
        self.command(f"create database {TEMPLATE}")
        asyncio.run(migrate(self.url(TEMPLATE)))

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

    def __init__(self, log_folder: Path) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not on this machine"
        port = free_port()
        argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--appendonly", "no"]
        super().__init__(argv, port, log_folder / "redis.log")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

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
        with redis.Redis(port=self.port) as client:
            client.flushall()


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server of one's own, for tests that kill or pause it; its template has all tables."""
    with tempfile.TemporaryDirectory(prefix="stack-pg-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        server.start()
        try:
            server.wait()
            server.make_template()
            yield server
        finally:
            server.resume() if server.process is not None else None
            server.kill()
            server.log_path.unlink(missing_ok=True)


@contextlib.contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server of one's own, for tests that kill or pause it."""
    with tempfile.TemporaryDirectory(prefix="stack-redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            server.wait()
            yield server
        finally:
            server.resume() if server.process is not None else None
            server.kill()
