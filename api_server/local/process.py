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
from api_server.local.unprivileged import User

_TETHER = Path(__file__).with_name("tether.py")
SECOND_TERM_SECONDS = 1.0
MAX_LOG_BYTES = 20 * 1024 * 1024


def tether_command(argv: Sequence[str], user: User | None = None) -> list[str]:
    """The command that runs `argv` so that it dies with this process; as that user, if root."""
    other = ["--as", f"{user.uid}:{user.gid}"] if user else []
    return [sys.executable, "-S", "-I", str(_TETHER), str(os.getpid()), *other, *argv]


@dataclass(frozen=True)
class Command:
    """What to run. Standard output and error go to the end of `log_path`.

    `user` is who runs it, None for ourselves; `stop_signal` is what ends it in order.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    inherited_fds: tuple[int, ...] = ()
    user: User | None = None
    stop_signal: signal.Signals = signal.SIGTERM


class Child:
    """One running child process."""

    def __init__(
        self, process: asyncio.subprocess.Process, stop_signal: signal.Signals = signal.SIGTERM
    ) -> None:
        self._process = process
        self._stop_signal = stop_signal

    @classmethod
    async def start(cls, command: Command) -> "Child":
        """Start it. Raises `SetupError` when the machine does not let us."""
        path = command.log_path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *tether_command(command.argv, command.user),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(command.environment),
                    start_new_session=True,
                    pass_fds=command.inherited_fds,
                )
        except OSError as exc:
            raise SetupError(f"{command.name} cannot be started: {exc}.") from exc
        return cls(process, command.stop_signal)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> None:
        """What stops it (TERM), after the grace again, then KILL. llama-server needs the second."""
        # asyncio.wait and not asyncio.timeout: before Python 3.11.4 the latter does not work in a
        # task that is already cancelled, which is where this runs.
        end = asyncio.create_task(self._process.wait())
        try:
            for seconds in (grace_seconds, SECOND_TERM_SECONDS):
                self._send(self._stop_signal)
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
