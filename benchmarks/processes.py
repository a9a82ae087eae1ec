"""Programs under measurement: each in a session of its own, on one core, tied to our life."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from api_server.local.process import Command, last_lines, tether_command
from api_server.local.unprivileged import User
from benchmarks import machine
from benchmarks.exchanges import PlainExchange
from benchmarks.phases import run_once

_PINNED = Path(__file__).with_name("pinned.py")
REPOSITORY = Path(__file__).resolve().parent.parent
STOP_SECONDS = 10.0
FIRST_ANSWER_SECONDS = 10.0


class TargetError(Exception):
    """A program could not be started; the message says why."""


class Running:
    """A program that runs, with its children."""

    def __init__(self, program: Command, process: asyncio.subprocess.Process) -> None:
        self.program = program
        self._process = process
        self.pids: list[int] = [process.pid]

    def look_for_children(self) -> None:
        """Learn which processes it consists of now."""
        self.pids = machine.session_members(self._process.pid)

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.pids)

    def resident_bytes(self) -> int:
        return machine.memory_bytes(self.pids)

    def peak_bytes(self) -> int:
        return machine.memory_bytes(self.pids, "VmHWM")

    def raise_if_ended(self) -> None:
        """Raises `TargetError` when it runs no longer."""
        if self._process.returncode is not None:
            raise TargetError(self._complaint(f"ended with code {self._process.returncode}"))

    async def wait_until_it_answers(self, port: int, seconds: float) -> None:
        """Until a chat through it comes back right. Raises `TargetError`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while True:
            self.raise_if_ended()
            counted = await run_once(port, [PlainExchange()], FIRST_ANSWER_SECONDS)
            if not counted.errors:
                break
            if clock() > deadline:
                raise TargetError(self._complaint(f"no right answer: {counted.errors[0]}"))
            await asyncio.sleep(0.1)
        self.look_for_children()

    def _complaint(self, what: str) -> str:
        tail = last_lines(self.program.log_path, 3)
        return what + (f". Its last words:\n{tail}" if tail else "")

    async def stop(self) -> None:
        """TERM, and KILL when that does not help; returns when it is gone."""
        end = asyncio.create_task(self._process.wait())
        try:
            self._send(signal.SIGTERM)
            await asyncio.wait({end}, timeout=STOP_SECONDS)
        finally:
            self._send(signal.SIGKILL)  # also to children that outlived it
            await end

    def _send(self, signal_: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal_)


@asynccontextmanager
async def running(
    program: Command, core: int | None = None, user: User | None = None
) -> AsyncIterator[Running]:
    """Start it, on one core and as another user if one is given; it is gone at the end."""
    argv = tether_command(program.argv, user)
    if core is not None:  # first, since another user may not be able to run our Python
        argv = [sys.executable, "-S", "-I", str(_PINNED), str(core), *argv]
    try:
        with program.log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=REPOSITORY,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(program.environment),
                start_new_session=True,
                pass_fds=program.inherited_fds,
            )
    except OSError as exc:
        raise TargetError(f"cannot be started: {exc}") from exc
    child = Running(program, process)
    try:
        yield child
    finally:
        await child.stop()


def clean_environment(**more: str) -> dict[str, str]:
    """Ours, without what would change how the gateway or a peer behaves."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def listen(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A listening socket on a loopback address, to be inherited by a program; 0: any free port."""
    listener = socket.create_server((address, port), backlog=2048)
    listener.set_inheritable(True)
    return listener
