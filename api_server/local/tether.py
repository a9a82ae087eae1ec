"""Ties a program to the life of whoever started it, then becomes that program.

`python -S -I tether.py PARENT_PID [--as UID:GID] COMMAND...`: if the parent dies, even by kill -9,
the kernel kills the command too (Linux's PR_SET_PDEATHSIG), so that no engine is ever left alone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """From now on the kernel kills this process when its parent, of that pid, dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the tie was made
        sys.exit(1)


def become(user: str) -> None:
    """Go on as another user, `UID:GID`, without any right of root; in a folder open to all."""
    uid, gid = map(int, user.split(":"))
    os.chdir("/")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main() -> None:
    parent, *command = sys.argv[1:]
    if command[0] == "--as":
        become(command[1])  # before the tie, which the kernel undoes when the user changes
        command = command[2:]
    die_with(int(parent))
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is the point
    except OSError as exc:
        sys.exit(f"{command[0]} cannot be started: {exc.strerror}")


if __name__ == "__main__":
    main()
