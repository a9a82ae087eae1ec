"""Keeps one child up: waits until it is ready, notices when it dies or hangs, starts it again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from api_server.errors import SetupError
from api_server.local.plan import restart_delay_seconds
from api_server.local.process import Child, Command, keep_log_small, last_lines
from api_server.local.terminal import Say

POLL_SECONDS = 0.1
WATCH_SECONDS = 1.0
STABLE_SECONDS = 60.0


@dataclass(frozen=True)
class Watch:
    """How to tell that a child is well.

    `is_ready` answers within about a second and never raises; `verify` is asked once after each
    start and raises `SetupError` if the child is up but is not what was wanted.
    """

    is_ready: Callable[[], Awaitable[bool]]
    verify: Callable[[], Awaitable[None]]
    start_seconds: float
    hang_seconds: float
    stop_seconds: float


class Supervisor:
    """Owns one child from its first start to its end. `stop` is final and safe to call twice."""

    def __init__(self, command: Command, watch: Watch, say: Say) -> None:
        self._command = command
        self._watch = watch
        self._say = say
        self._child: Child | None = None
        self._crashes = 0

    async def start(self) -> None:
        """Start the child and wait until it is ready. Raises `SetupError` when it does not come."""
        self._child = child = await Child.start(self._command)
        deadline = time.monotonic() + self._watch.start_seconds
        while not (child.returncode is None and await self._watch.is_ready()):
            if child.returncode is not None:
                raise SetupError(
                    f"{self._command.name} ended while starting ({_in_words(child.returncode)}). "
                    f"The end of {self._command.log_path}:\n{last_lines(self._command.log_path)}"
                )
            if time.monotonic() > deadline:
                raise SetupError(
                    f"{self._command.name} was not ready after {self._watch.start_seconds:g} s. "
                    f"Its log is {self._command.log_path}."
                )
            await asyncio.sleep(POLL_SECONDS)
        await self._watch.verify()

    async def keep_up(self) -> None:
        """Watch the running child for ever; start it again, with back-off, whenever it fails."""
        while True:
            started = time.monotonic()
            reason = await self._until_it_fails()
            if time.monotonic() - started > STABLE_SECONDS:
                self._crashes = 0
            await self._restart(reason)

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(self._watch.stop_seconds)

    async def kill(self) -> None:
        if self._child is not None:
            await self._child.kill()

    async def _until_it_fails(self) -> str:
        child = self._child
        assert child is not None
        last_well = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    code = await child.wait()
                return f"{self._command.name} died ({_in_words(code)})"
            except TimeoutError:
                keep_log_small(self._command.log_path)
                if await self._watch.is_ready():
                    last_well = time.monotonic()
            if time.monotonic() - last_well > self._watch.hang_seconds:
                await child.kill()
                return f"{self._command.name} was silent for {self._watch.hang_seconds:g} s"

    async def _restart(self, reason: str) -> None:
        while True:
            self._crashes += 1
            delay_seconds = restart_delay_seconds(self._crashes)
            self._say.line(f"{reason}; starting it again in {delay_seconds:g} s")
            await asyncio.sleep(delay_seconds)
            try:
                await self.start()
            except SetupError as exc:
                await self.kill()
                reason = str(exc)
            else:
                self._say.line(f"{self._command.name} is back")
                return


def _in_words(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
