"""A file with all apps and the digests of their credentials, for a start without PostgreSQL.

It is written whole or not at all, and its time of change says when it was last known to be true.
"""

import logging
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from api_server.stores.apps import AppRow, CredentialRow

FORMAT = 1

log = logging.getLogger(__name__)


class Content(msgspec.Struct):
    """What the file holds. `change` is the newest change in it."""

    change: int
    apps: Sequence[AppRow]
    credentials: Sequence[CredentialRow]
    format: int = FORMAT


def write_snapshot(path: Path, content: Content) -> None:
    """Put the file in the place of an older one, readable for nobody else. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_snapshot(path: Path) -> tuple[Content, float] | None:
    """The content and when it was last true, in Unix seconds; None where there is nothing usable.

    A file that others may write to is not believed: who can add a line to it could come in.
    """
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                log.warning("the snapshot of apps is not ours alone", extra={"path": str(path)})
                return None
            content = msgspec.json.decode(file.read(), type=Content)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        fields = {"path": str(path), "reason": str(exc)}
        log.warning("the snapshot of apps cannot be read", extra=fields)
        return None
    return (content, state.st_mtime) if content.format == FORMAT else None


def confirm_snapshot(path: Path) -> None:
    """Note that it is still true. Raises `OSError`."""
    now = time.time()
    os.utime(path, (now, now))
