"""Child processes: started in a session of their own, tied to our life, stopped for certain."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError

_TETHER = Path(__file__).with_name("tether.py")
SECOND_TERM_SECONDS = 1.0
MAX_LOG_BYTES = 20 * 1024 * 1024


def tether_command(argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` so that it dies with this process."""
    return [sys.executable, "-S", "-I", str(_TETHER), str(os.getpid()), *argv]


@dataclass(frozen=True)
class Command:
    """What to run. Standard output and error go to the end of `log_path`."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    inherited_fds: tuple[int, ...] = ()


class Child:
    """One running child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> "Child":
        """Start it. Raises `SetupError` when the machine does not let us."""
        path = command.log_path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *tether_command(command.argv),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(command.environment),
                    start_new_session=True,
                    pass_fds=command.inherited_fds,
                )
        except OSError as exc:
            raise SetupError(f"{command.name} cannot be started: {exc}.") from exc
        return cls(process)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> None:
        """TERM, after the grace TERM again, then KILL. llama-server needs the second one."""
        # asyncio.wait and not asyncio.timeout: before Python 3.11.4 the latter does not work in a
        # task that is already cancelled, which is where this runs.
        end = asyncio.create_task(self._process.wait())
        try:
            for seconds in (grace_seconds, SECOND_TERM_SECONDS):
                self._send(signal.SIGTERM)
                await asyncio.wait({end}, timeout=seconds)
                if end.done():
                    return
            await self.kill()
        finally:
            end.cancel()

    async def kill(self) -> None:
        """KILL, and wait until it is gone."""
        self._send(signal.SIGKILL)
        await self._process.wait()

    def _send(self, signal_: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_)


def keep_log_small(path: Path) -> None:
    """Move a log that has grown large aside; whoever appends to it goes on in the emptied file."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_LOG_BYTES:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


def last_lines(path: Path, count: int = 5) -> str:
    """The end of a log, for a person who has to find out why a child died."""
    with contextlib.suppress(OSError):
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 8192))
            text = log.read().decode("utf-8", "replace")
        return "\n".join(line for line in text.splitlines()[-count:])
    return ""


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
