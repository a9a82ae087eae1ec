"""Chooses the PostgreSQL, the Redis and the rclone that `make local` and the tests run.

Order: those of the machine where they are new enough, else those that store_build installs.
"""

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.programs import run_program
from api_server.local.store_build import (
    POSTGRES,
    POSTGRES_MAJOR,
    RCLONE,
    REDIS,
    VECTORS,
    build_store,
    cache_of,
)
from api_server.local.terminal import Say
from api_server.local.unprivileged import (
    ROOTS_FOLDER,
    User,
    can_reach,
    can_run,
    open_for_all,
)

Version = tuple[int, int]
ReadVersion = Callable[[str], Version | None]

CHECK_TIMEOUT_SECONDS = 10.0
OLDEST_POSTGRES = 14
OLDEST_REDIS = (6, 2)
OLDEST_RCLONE = (1, 65)
"""The first that serves S3."""


@dataclass(frozen=True)
class Places:
    """Where programs of this machine are looked for. `path` is as PATH, None is PATH itself."""

    path: str | None = None
    postgres_folder: Path = Path("/usr/lib/postgresql")


NOWHERE = Places(path="", postgres_folder=Path("/nonexistent"))
"""As if the machine had none of them."""


@dataclass(frozen=True)
class PostgresPrograms:
    """The programs of one PostgreSQL. A cluster belongs to one major version for ever."""

    folder: Path
    major: int

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"


async def find_postgres(
    *,
    cache_home: Path,
    say: Say,
    user: User | None,
    major: int | None = None,
    places: Places | None = None,
) -> PostgresPrograms:
    """The newest of the machine, else the installed one; of the given major version, if any is.

    user: who must be able to run it, None for ourselves. Raises SetupError where there is none.
    """
    found = [
        programs
        for folder in _postgres_folders(places or Places())
        if can_run(user, folder / "postgres")
        and (programs := await _postgres_in(folder)) is not None
    ]
    for programs in found:
        if major in (None, programs.major):
            return programs
    if major in (None, POSTGRES_MAJOR):
        # Root's home is closed to others, and so is the cache in it.
        cache = cache_of(cache_home)
        cache = cache if can_reach(user, cache) else ROOTS_FOLDER
        folder = await build_store(POSTGRES, cache=cache, say=say)
        if user is not None:
            open_for_all(folder, cache)
        return PostgresPrograms(folder, POSTGRES_MAJOR)
    have = ", ".join(str(programs.major) for programs in found) or "none"
    raise SetupError(
        f"The data is PostgreSQL {major}'s, and of that version no programs are found (of the "
        f"machine's: {have}; to install: {POSTGRES_MAJOR}). Install PostgreSQL {major}, or begin "
        "without that data: make local-reset, then make local"
    )


async def find_redis(*, cache_home: Path, say: Say, places: Places | None = None) -> Path:
    """The redis-server on PATH where it is new enough, else the installed one."""
    path = (places or Places()).path
    found = await _on_path("redis-server", path, redis_version, OLDEST_REDIS, say)
    if found is not None:
        return found
    return await build_store(REDIS, cache=cache_of(cache_home), say=say) / "redis-server"


async def find_vector_engine(*, cache_home: Path, say: Say) -> Path:
    """The folder that has the engine's Python package in it."""
    return (await build_store(VECTORS, cache=cache_of(cache_home), say=say)).parent


async def find_rclone(*, cache_home: Path, say: Say, places: Places | None = None) -> Path:
    """The rclone on PATH where it is new enough, else the installed one."""
    path = (places or Places()).path
    found = await _on_path("rclone", path, rclone_version, OLDEST_RCLONE, say)
    if found is not None:
        return found
    return await build_store(RCLONE, cache=cache_of(cache_home), say=say) / "rclone"


async def _on_path(
    name: str, path: str | None, read: ReadVersion, oldest: Version, say: Say
) -> Path | None:
    """The program where it is new enough, else why it is not taken is said; path: as PATH."""
    on_path = shutil.which(name, path=path)
    if on_path is None:
        return None
    version = read(await _said_version(Path(on_path)))
    if version is not None and version >= oldest:
        return Path(on_path)
    say.line(f"not using {on_path} from PATH: {version_fault(version, oldest)}")
    return None


def postgres_major(said: str) -> int | None:
    """15 of `postgres (PostgreSQL) 15.18 (Debian 15.18-0)`; None where it says no version."""
    match = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(match[1]) if match else None


def redis_version(said: str) -> Version | None:
    """(7, 0) of `Redis server v=7.0.15 sha=...`; None where it says no version."""
    match = re.search(r"server v=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else None


def rclone_version(said: str) -> Version | None:
    """(1, 75) of `rclone v1.75.2`; None where it says no version."""
    match = re.search(r"rclone v(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else None


def version_fault(version: Version | None, oldest: Version) -> str:
    """Why a program is not taken."""
    wanted = ".".join(map(str, oldest))
    return "it does not run" if version is None else f"it is older than {wanted}"


def _postgres_folders(places: Places) -> Iterator[Path]:
    """Of PATH first, then Debian's, the newest first; only those that have both programs."""
    on_path = shutil.which("postgres", path=places.path)
    found = [Path(on_path).resolve().parent] if on_path else []
    versions = [path for path in places.postgres_folder.glob("*/bin") if path.parent.name.isdigit()]
    found += sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    seen = dict.fromkeys(path for path in found)
    yield from (path for path in seen if all((path / name).is_file() for name in _NEEDED))


_NEEDED = ("initdb", "postgres")


async def _postgres_in(folder: Path) -> PostgresPrograms | None:
    major = postgres_major(await _said_version(folder / "postgres"))
    return None if major is None or major < OLDEST_POSTGRES else PostgresPrograms(folder, major)


async def _said_version(program: Path) -> str:
    """What it answers to --version; nothing where it does not run."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            outcome = await run_program([str(program), "--version"])
    except TimeoutError:
        return ""
    return "" if outcome.returncode else "\n".join(outcome.lines)
