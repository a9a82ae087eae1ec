"""A file with all apps and the digests of their credentials, for a start without PostgreSQL.

It is written whole or not at all, and its time of change says when it was last known to be true.
Several gateways may write it, in containers that share nothing but the folder: their processes may
have the same number.
"""

import contextlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from api_server.stores.apps import AppRow, CredentialRow

FORMAT = 1
UNFINISHED_SECONDS = 600.0

log = logging.getLogger(__name__)


class Content(msgspec.Struct):
    """What the file holds. `change` is the newest change in it."""

    change: int
    apps: Sequence[AppRow]
    credentials: Sequence[CredentialRow]
    format: int = FORMAT


@dataclass(frozen=True)
class Stamp:
    """Which file it is: another one when anybody has written it anew or confirmed it."""

    inode: int
    changed_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """That of the file which is there now, None where there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(state.st_ino, state.st_mtime_ns)


def write_snapshot(path: Path, content: Content) -> Stamp | None:
    """Put the file in the place of an older one, readable for nobody else. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))
            file.flush()
            os.fsync(file.fileno())
        stamp = stamp_of(beside)
        beside.replace(path)
        return stamp
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


def confirm_snapshot(path: Path) -> Stamp | None:
    """Note that it is still true. Raises `OSError`."""
    now = time.time()
    os.utime(path, (now, now))
    return stamp_of(path)


def _remove_unfinished(path: Path) -> None:
    """What processes left that died while they wrote."""
    for other in path.parent.glob(f"{path.name}.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > UNFINISHED_SECONDS:
                other.unlink()
