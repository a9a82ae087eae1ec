"""Calls an operator's functions in processes beside this one.

A function that hangs, eats memory or ends its process hurts its own call only: the process is
killed, and the next call gets a new one.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_PROCESSES = 4
MOST_LINE_BYTES = 1024 * 1024
KILL_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Function:
    """`call` is its place, as `package.module:function`; a call may take so many seconds."""

    call: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Called:
    """What a function said, as text for the model, which is told of a failure too."""

    output: str
    has_failed: bool


class FunctionHosts:
    """`functions` are all that may be called, by the names under which models know them.

    `variables` is the environment of the processes. They are started when they are needed, `most`
    of them at the same time, and are used again.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        variables: Mapping[str, str],
        *,
        most: int = MOST_PROCESSES,
    ) -> None:
        self._functions = functions
        self._variables = variables
        self._places = asyncio.Semaphore(most)
        self._idle: list[asyncio.subprocess.Process] = []

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._functions)

    async def call(self, name: str, arguments: str) -> Called:
        """Call one of `names` with JSON; never raises for what the function does."""
        function = self._functions[name]
        async with self._places:
            process = self._idle.pop() if self._idle else await self._start()
            is_sound = False
            try:
                async with asyncio.timeout(function.seconds):
                    called = await _asked(process, name, function.call, arguments)
                is_sound = called is not None
            except TimeoutError:
                log.warning("a function took too long", extra={"function": name})
                return Called(
                    f"Error: it took longer than {function.seconds:g} s.", has_failed=True
                )
            finally:  # also where the run was cancelled: what it began ends
                if is_sound:
                    self._idle.append(process)
                else:
                    await _killed(process)
        if called is None:
            log.warning("a function ended its process", extra={"function": name})
            return Called("Error: the function ended without an answer.", has_failed=True)
        return called

    async def aclose(self) -> None:
        """End the processes that are idle; calls that run end with their tasks."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_killed, idle))

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api_server.functions"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._variables),
            limit=MOST_LINE_BYTES,
            start_new_session=True,
        )


async def _asked(
    process: asyncio.subprocess.Process, name: str, place: str, arguments: str
) -> Called | None:
    """The answer; None where the process has ended, or says what is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    told = {"name": name, "call": place, "arguments": arguments}
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        answer: Any = json.loads(line)
        return Called(str(answer["output"]), has_failed=bool(answer["failed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
    # asyncio.wait, since asyncio.timeout fails in a cancelled task before Python 3.11.4.
    ended = asyncio.ensure_future(process.wait())
    await asyncio.wait({ended}, timeout=KILL_SECONDS)
    if process.stdin is not None:
        process.stdin.close()
