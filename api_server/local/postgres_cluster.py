"""One PostgreSQL cluster: where it lies, how it is made, how it is started, whether it answers.

It listens on the loopback interface alone, never without a password, and on no unix socket.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.data_dir import unfinished
from api_server.local.programs import run_program
from api_server.local.recipe import last_error_line
from api_server.local.store_programs import PostgresPrograms
from api_server.local.unprivileged import ROOTS_FOLDER, User, can_reach, open_for_all

ROLE = DATABASE = "stack"
SUPERUSER = "postgres"
"""Owns the cluster and has no password, so that nobody can log in as it."""

MAX_CONNECTIONS = 200
FAST_STOP = signal.SIGINT
"""Ends it in order without waiting for its clients to leave."""

TOO_MANY_CONNECTIONS = b"C53300\0"
WHO_MAY_LOG_IN = f"# Written by `make local`.\nhost all {ROLE} 127.0.0.1/32 scram-sha-256\n"
PROBE_SECONDS = 1.0
MAX_ANSWER_BYTES = 4096
LEFT_OVER_SECONDS = 10.0
LEFT_OVER_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Cluster:
    """The data in `folder`, of which `user` is the owner: None for ourselves."""

    folder: Path
    user: User | None
    password: str = field(repr=False)

    def url(self, port: int, database: str = DATABASE) -> str:
        """The password is made of letters and digits, so that nothing needs to be escaped."""
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{port}/{database}"

    def major(self) -> int | None:
        """The version of PostgreSQL that made it; None where there is none yet."""
        try:
            return int((self.folder / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise SetupError(
                f"{self.folder} holds no PostgreSQL data that can be read: put a copy of it back, "
                "or begin without it: make local-reset"
            ) from exc


def cluster_folder(data_dir: Path, user: User | None) -> Path:
    """Where the data of a data directory lies: in it, unless the user cannot go there."""
    if can_reach(user, data_dir / "postgres"):
        return data_dir / "postgres"
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return ROOTS_FOLDER / "data" / digest


def initdb_arguments(programs: PostgresPrograms, folder: Path, *, is_synced: bool) -> list[str]:
    """The command that makes an empty cluster, the same on every machine."""
    return [
        *(str(programs.initdb), "--pgdata", str(folder), "--username", SUPERUSER),
        *("--auth", "reject", "--encoding", "UTF8", "--no-locale", "--data-checksums"),
        *([] if is_synced else ["--no-sync"]),
    ]


def server_arguments(programs: PostgresPrograms, folder: Path, port: int) -> list[str]:
    """The command that runs a cluster."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": MAX_CONNECTIONS,
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(programs.postgres), "-D", str(folder), *words]


def first_statements(password: str) -> list[str]:
    """What a new cluster is told: a role that may make databases and nothing more, and its own."""
    return [
        f"create role {ROLE} login createdb password '{password}';",
        f"create database {DATABASE} owner {ROLE};",
    ]


async def make_cluster(
    programs: PostgresPrograms, cluster: Cluster, *, is_synced: bool = True
) -> None:
    """Make it, complete or not at all. Raises `SetupError` with what PostgreSQL says.

    is_synced: whether it would survive a power cut right now.
    """
    folder, user = cluster.folder, cluster.user
    new = unfinished(folder)
    if folder.is_relative_to(ROOTS_FOLDER):
        folder.parent.mkdir(parents=True, exist_ok=True)
        open_for_all(folder.parent, ROOTS_FOLDER)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if user is not None:
        os.chown(new, user.uid, user.gid)
    await _run("initdb", initdb_arguments(programs, new, is_synced=is_synced), user)
    (new / "pg_hba.conf").write_text(WHO_MAY_LOG_IN)  # the owner and the mode are initdb's
    await tell_alone(programs, new, user, first_statements(cluster.password))
    new.rename(folder)


async def set_password(programs: PostgresPrograms, cluster: Cluster) -> None:
    """Make the password the role's. Nothing may run on the data."""
    change = f"alter role {ROLE} password '{cluster.password}';"
    await tell_alone(programs, cluster.folder, cluster.user, [change])


async def tell_alone(
    programs: PostgresPrograms, folder: Path, user: User | None, statements: Iterable[str]
) -> None:
    """Run statements without a server, so that there is no moment in which anyone could log in."""
    alone = [str(programs.postgres), "--single", "-D", str(folder), "-c", "log_min_messages=error"]
    await _run("postgres --single", [*alone, SUPERUSER], user, statements)


async def _run(
    name: str, argv: list[str], user: User | None, statements: Iterable[str] = ()
) -> None:
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "w") as pipe:
            pipe.writelines(f"{statement}\n" for statement in statements)
        outcome = await run_program(argv, stdin=reading, user=user)
    finally:
        os.close(reading)
    faults = [line for line in outcome.lines if "ERROR:" in line or "FATAL:" in line]
    if outcome.returncode or faults:
        said = last_error_line(faults or outcome.lines)
        raise SetupError(f"PostgreSQL's data could not be made: {name}: {said}")


async def clear_left_overs(folder: Path) -> None:
    """Make sure that nothing runs on the data; then a lock file there is a stale one.

    After kill -9 of everything, processes of PostgreSQL take a moment to notice. The lock file
    names a process that may be somebody else by now. Raises `SetupError` for one that stays.
    """
    tries = int(LEFT_OVER_SECONDS / LEFT_OVER_POLL_SECONDS)
    for _ in range(tries):
        left = processes_in(folder)
        if not left:
            (folder / "postmaster.pid").unlink(missing_ok=True)
            return
        await asyncio.sleep(LEFT_OVER_POLL_SECONDS)
    raise SetupError(
        f"PostgreSQL still runs on {folder} (process {', '.join(map(str, left))}). Stop it: kill "
        f"-INT {left[0]}"
    )


def processes_in(folder: Path) -> list[int]:
    """The processes whose working directory this is: that of every process of PostgreSQL."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_there = (entry / "cwd").readlink() == folder.resolve()
        except OSError:
            continue
        if is_there:
            found.append(int(entry.name))
    return found


def startup_message(user: str, database: str) -> bytes:
    """The first message of PostgreSQL's protocol 3.0."""
    pairs = f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!ii", 8 + len(pairs), 196608) + pairs


async def answers(port: int) -> bool:
    """Whether it would let somebody log in now: it asks for the password, or has enough of clients.

    Never raises.
    """
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(startup_message(ROLE, DATABASE))
                answer = await reader.read(MAX_ANSWER_BYTES)
                return answer[:1] == b"R" or TOO_MANY_CONNECTIONS in answer
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
