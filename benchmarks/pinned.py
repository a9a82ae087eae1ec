"""Pins itself to one core, then becomes a program: `python -S -I pinned.py CORE COMMAND...`."""

import os
import sys


def main() -> None:
    core, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is the point
    except OSError as exc:
        sys.exit(f"{command[0]} cannot be started: {exc.strerror}")


if __name__ == "__main__":
    main()
