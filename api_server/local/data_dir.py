"""The data directory of `make local`: one running stack for each, what is in it, how it goes away.

The data of PostgreSQL is in `postgres/`; where that is a link, it leads to what root had to put
elsewhere (postgres_cluster).
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.terminal import Say
from api_server.local.unprivileged import ROOTS_FOLDER
from api_server.settings import Settings

LOG_FOLDER, STACK_FILE, LOCK_FILE = "logs", "stack.yaml", "lock"
POSTGRES_FOLDER, POSTGRES_URL_FILE = "postgres", "postgres.url"
REDIS_FILE, REDIS_URL_FILE = "redis.conf", "redis.url"
VECTORS_FOLDER, VECTORS_FILE = "vectors", "vectors.json"
KEY_FILE = "development.key"
PROMETHEUS_FOLDER, PROMETHEUS_FILE = "prometheus", "prometheus.yml"
OBJECTS_FOLDER = "objects"
STORES_FILE = "stores.env"
FOLDERS = (LOG_FOLDER, "spool", "ingest", PROMETHEUS_FOLDER, OBJECTS_FOLDER, VECTORS_FOLDER)
FILES = (
    *(STACK_FILE, POSTGRES_URL_FILE, REDIS_FILE, REDIS_URL_FILE, KEY_FILE, "apps.snapshot"),
    *(PROMETHEUS_FILE, VECTORS_FILE, STORES_FILE),
    LOCK_FILE,
)


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """One stack for one data directory."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / LOCK_FILE).open("a+")
    except OSError as exc:
        raise SetupError(
            f"The data directory {data_dir} cannot be written ({exc.strerror}). "
            "Choose another: make local DATA_DIR=..."
        ) from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.seek(0)
            raise SetupError(
                f"Another `make local` (process {lock.read().strip() or 'unknown'}) uses "
                f"{data_dir}. Stop it, or run beside it: make local DATA_DIR=.local2 PORT=8001"
            ) from exc
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def reset(settings: Settings, say: Say) -> None:
    """Remove what `run_local` wrote, and nothing else; not while a stack runs."""
    data_dir = settings.environment.data_dir.resolve()
    if not (data_dir / LOCK_FILE).is_file():
        say.line(f"{data_dir} holds nothing of `make local`; there is nothing to remove")
        return
    with locked(data_dir):
        for name in FOLDERS:
            shutil.rmtree(data_dir / name, ignore_errors=True)
        remove_cluster(data_dir / POSTGRES_FOLDER)
        for name in FILES:
            (data_dir / name).unlink(missing_ok=True)
    if any(data_dir.iterdir()):
        say.line(f"removed what `make local` wrote into {data_dir}; other files there are kept")
    else:
        data_dir.rmdir()
        say.line(f"removed {data_dir}")


def remove_cluster(place: Path) -> None:
    """The data of PostgreSQL, also where `place` is only a link to it."""
    real = place.resolve()
    if place.is_symlink():
        place.unlink()
        if not real.is_relative_to(ROOTS_FOLDER):
            return  # a link of somebody else's making
    for folder in (real, unfinished(real)):
        if folder.exists():
            shutil.rmtree(folder)


def unfinished(folder: Path) -> Path:
    """What a folder is called until all of it is there."""
    return folder.with_name(f"{folder.name}.new")


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, from its first moment on; whole or not at all."""
    new = unfinished(path)
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.rename(path)
