"""Runs one program to its end in a session of its own, and leaves no process of it behind."""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_server.local.process import tether_command
from api_server.local.unprivileged import User

TICK_SECONDS = 1.0
END_GRACE_SECONDS = 3.0
END_POLL_SECONDS = 0.02
TAIL_LINES = 2_000


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit status and its last lines (standard output and error)."""

    returncode: int
    lines: list[str]


async def run_program(
    argv: Sequence[str],
    *,
    on_lines: Callable[[list[str]], None] | None = None,
    keep_open: Sequence[int] = (),
    stdin: int = asyncio.subprocess.DEVNULL,
    user: User | None = None,
) -> Outcome:
    """Run a program in a session of its own until it ends; no process of it outlives the call.

    `on_lines` gets new whole lines as they come, and an empty list after each quiet second. On
    cancellation the session gets SIGTERM, then SIGKILL. What cannot be started ends with status 1.
    stdin: a descriptor that it reads; user: who runs it, None for ourselves.
    """
    process = await asyncio.create_subprocess_exec(
        *tether_command(list(argv), user),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=keep_open,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        async for lines in _lines(process):
            tail.extend(lines)
            if on_lines:
                on_lines(lines)
        return Outcome(await process.wait(), list(tail))
    finally:
        await _end_session(process)


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[list[str]]:
    """New whole lines of any length, as they come; an empty list after each quiet second."""
    rest = b""
    while process.stdout:
        try:
            async with asyncio.timeout(TICK_SECONDS):
                chunk = await process.stdout.read(65536)
        except TimeoutError:
            yield []
            continue
        *whole, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            whole = [rest]
        yield [line.decode(errors="replace").rstrip() for line in whole]
        if not chunk:
            break


async def _end_session(process: asyncio.subprocess.Process) -> None:
    """Leave no process of the program's session alive, even if cancelled meanwhile."""
    try:
        signal_session(process.pid, signal.SIGTERM)
        for _ in range(int(END_GRACE_SECONDS / END_POLL_SECONDS)):
            if not session_members(process.pid):
                break
            await asyncio.sleep(END_POLL_SECONDS)
    finally:
        signal_session(process.pid, signal.SIGKILL)
        # To its end, so that the pipe is closed; a stray daemon that holds it is not waited for.
        # asyncio.wait, since asyncio.timeout fails in a cancelled task before Python 3.11.4.
        rest = asyncio.create_task(_to_the_end(process))
        await asyncio.wait({rest}, timeout=TICK_SECONDS)
        rest.cancel()
        await process.wait()


async def _to_the_end(process: asyncio.subprocess.Process) -> None:
    while process.stdout and await process.stdout.read(65536):
        pass


def session_members(session: int) -> list[int]:
    """The living processes of a session. Ninja gives each compiler a process group of its own."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except OSError:
                continue
            state, _, _, its_session = stat.rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                members.append(int(entry.name))
    return members


def signal_session(session: int, number: signal.Signals) -> None:
    """Signal every process of a session."""
    for pid in session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
