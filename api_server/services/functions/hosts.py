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
DESCRIBE_SECONDS = 20.0

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
        self._described: list[dict[str, Any]] | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._functions)

    async def call(self, name: str, arguments: str) -> Called:
        """Call one of `names` with JSON; never raises for what the function does."""
        function = self._functions[name]
        told = {"name": name, "call": function.call, "arguments": arguments}
        try:
            answer = await self._asked(told, function.seconds)
        except TimeoutError:
            log.warning("a function took too long", extra={"function": name})
            words = f"Error: it took longer than {function.seconds:g} s."
            return Called(words, has_failed=True)
        if answer is None:
            log.warning("a function ended its process", extra={"function": name})
            return Called("Error: the function ended without an answer.", has_failed=True)
        return Called(answer["output"], has_failed=answer["failed"])

    async def tools(self) -> list[dict[str, Any]]:
        """All of them as OpenAI describes functions, from their signatures. One that cannot be
        described is left out, and the log says so.
        """
        if self._described is None:
            described = []
            for name, function in self._functions.items():
                told = {"name": name, "call": function.call}
                answer = None
                with contextlib.suppress(TimeoutError):
                    answer = await self._asked(told, DESCRIBE_SECONDS)
                if answer is None or answer["tool"] is None:
                    log.error("a function cannot be described", extra={"function": name})
                else:
                    described.append(answer["tool"])
            self._described = described
        return self._described

    async def aclose(self) -> None:
        """End the processes that are idle; calls that run end with their tasks."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_killed, idle))

    async def _asked(self, told: Mapping[str, str], seconds: float) -> dict[str, Any] | None:
        """What a process answers; None where it has ended. Raises `TimeoutError`."""
        async with self._places:
            process = await self._process()
            answer = None
            try:
                async with asyncio.timeout(seconds):
                    answer = await _answer(process, told)
            finally:  # also where the run was cancelled: what it began ends
                if answer is not None:
                    self._idle.append(process)
                else:
                    await _killed(process)
            return answer

    async def _process(self) -> asyncio.subprocess.Process:
        """One that waits for work, unless it has ended meanwhile; else a new one."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await _killed(process)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api_server.functions"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._variables),
            limit=MOST_LINE_BYTES,
            start_new_session=True,
        )


async def _answer(
    process: asyncio.subprocess.Process, told: Mapping[str, str]
) -> dict[str, Any] | None:
    """The answer; None where the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(told).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer
    except (OSError, ValueError):
        return None


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
    # asyncio.wait, since asyncio.timeout fails in a cancelled task before Python 3.11.4.
    ended = asyncio.ensure_future(process.wait())
    await asyncio.wait({ended}, timeout=KILL_SECONDS)
    if process.stdin is not None:
        process.stdin.close()
