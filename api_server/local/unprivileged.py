"""Whom PostgreSQL runs as when we are root, which it refuses to be, and what that user can reach.

Nothing here changes the mode or the owner of a folder that was not made for that user.
"""

import os
import pwd
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError

CANDIDATES = ("postgres", "nobody")
ROOTS_FOLDER = Path("/var/lib/llm-serving-stack")
"""Of root, for what the other user must reach and cannot where it would lie."""


@dataclass(frozen=True)
class User:
    """An account of this machine without rights of its own."""

    name: str
    uid: int
    gid: int


def unprivileged_user(
    euid: int | None = None, look_up: Callable[[str], pwd.struct_passwd] = pwd.getpwnam
) -> User | None:
    """The user to become; None when we are not root. Raises `SetupError` where there is none."""
    if (os.geteuid() if euid is None else euid) != 0:
        return None
    for name in CANDIDATES:
        try:
            found = look_up(name)
        except KeyError:
            continue
        return User(name, found.pw_uid, found.pw_gid)
    raise SetupError(
        "PostgreSQL does not run as root, and this machine has no user "
        f"{' or '.join(CANDIDATES)} to run it as: make one (useradd --system postgres), or run "
        "this as another user"
    )


def owner_of(folder: Path) -> User | None:
    """Who made what is in a folder, if that is not root."""
    found = folder.stat()
    return User("its owner", found.st_uid, found.st_gid) if found.st_uid else None


def can_reach(user: User | None, path: Path) -> bool:
    """Whether the user may go through every folder above `path` that exists, itself not asked."""
    return user is None or all(
        _may(user, parent.stat(), stat.S_IXUSR)
        for parent in path.absolute().parents
        if parent.exists()
    )


def can_run(user: User | None, program: Path) -> bool:
    """Whether the user may run a program that exists, links followed."""
    real = program.resolve()
    return user is None or (can_reach(user, real) and _may(user, real.stat(), stat.S_IXUSR))


def open_for_all(folder: Path, top: Path) -> None:
    """Let everyone go through a folder of ours and those above it, up to `top`; umask or not."""
    for path in (folder, *folder.parents):
        if not path.is_relative_to(top):
            return
        path.chmod(0o755)


def _may(user: User, found: os.stat_result, owners_bit: int) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & owners_bit)
    if found.st_gid == user.gid:
        return bool(found.st_mode & owners_bit >> 3)
    return bool(found.st_mode & owners_bit >> 6)
