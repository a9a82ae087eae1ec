"""Calls an operator's functions in processes beside this one.

A function that hangs, eats memory or ends its process hurts its own call only: the process is
killed, and the next call gets a new one. Every wait is bounded by the seconds of whoever waits.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_PROCESSES = 4
MOST_LINE_BYTES = 1024 * 1024
KILL_SECONDS = 2.0
DESCRIBE_SECONDS = 20.0
"""For one function, the start of a process included."""

FIRST_SECONDS = 10.0
"""How long those who ask for descriptions wait for the first of them, counted for all together."""

AGAIN_SECONDS = 10.0
"""Until those that could not be described are asked again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Function:
    """`call` is its place, as `package.module:function`. A call may wait so many seconds for a
    process that is free, and then take as many.
    """

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
    of them for calls at the same time and one that describes, and are used again.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        variables: Mapping[str, str],
        *,
        most: int = MOST_PROCESSES,
        first_seconds: float = FIRST_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._functions = functions
        self._variables = variables
        self._most = most
        self._first_seconds = first_seconds
        self._again_seconds = again_seconds
        self._places = asyncio.Semaphore(most)
        self._idle: list[asyncio.subprocess.Process] = []
        self._described: dict[str, dict[str, Any]] = {}
        self._describing: asyncio.Task[None] | None = None
        self._wait_until: float | None = None
        self._ask_again_at = 0.0

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._functions)

    async def call(self, name: str, arguments: str) -> Called:
        """Call one of `names` with JSON; never raises for what the function does."""
        function = self._functions[name]
        told = {"name": name, "call": function.call, "arguments": arguments}
        try:
            async with asyncio.timeout(function.seconds):
                await self._places.acquire()
        except TimeoutError:
            log.warning("a function found no free process", extra={"function": name})
            words = f"no process was free for {function.seconds:g} s"
            return Called(f"Error: it was not called: {words}.", has_failed=True)
        try:
            answer = await self._asked(told, function.seconds)
        except TimeoutError:
            log.warning("a function took too long", extra={"function": name})
            words = f"Error: it took longer than {function.seconds:g} s."
            return Called(words, has_failed=True)
        finally:
            self._places.release()
        if answer is None:
            log.warning("a function ended its process", extra={"function": name})
            return Called("Error: the function ended without an answer.", has_failed=True)
        return Called(answer["output"], has_failed=answer["failed"])

    async def tools(self) -> list[dict[str, Any]]:
        """All of them as OpenAI describes functions, from their signatures. One that cannot be
        described is left out, and the log says so; it is asked again later, while nobody waits.
        """
        now = time.monotonic()
        if len(self._described) < len(self._functions):
            if self._describing is None and now >= self._ask_again_at:
                self._describing = asyncio.create_task(self._describe())
            if self._wait_until is None:
                self._wait_until = now + self._first_seconds
            if self._describing is not None and now < self._wait_until:
                await asyncio.wait({self._describing}, timeout=self._wait_until - now)
        return [self._described[name] for name in self._functions if name in self._described]

    async def aclose(self) -> None:
        """End the processes that are idle; calls that run end with their tasks."""
        if self._describing is not None:
            self._describing.cancel()
            await asyncio.wait({self._describing}, timeout=2 * KILL_SECONDS)
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_killed, idle))

    async def _describe(self) -> None:
        """Ask all that are not described yet, one after the other, beside the calls."""
        try:
            for name in [each for each in self._functions if each not in self._described]:
                answer = None
                with contextlib.suppress(TimeoutError):
                    told = {"name": name, "call": self._functions[name].call}
                    answer = await self._asked(told, DESCRIBE_SECONDS)
                if answer is None or answer["tool"] is None:
                    log.error("a function cannot be described", extra={"function": name})
                else:
                    self._described[name] = answer["tool"]
        finally:
            self._ask_again_at = time.monotonic() + self._again_seconds
            self._describing = None

    async def _asked(self, told: Mapping[str, str], seconds: float) -> dict[str, Any] | None:
        """What a process answers; None where it has ended or none can be started. Raises
        `TimeoutError`.
        """
        process = answer = None
        try:
            async with asyncio.timeout(seconds):
                process = await self._process()
                answer = await _answer(process, told) if process is not None else None
        finally:  # also where the run was cancelled: what it began ends
            if process is not None and answer is not None and len(self._idle) < self._most:
                self._idle.append(process)
            elif process is not None:
                await _killed(process)
        return answer

    async def _process(self) -> asyncio.subprocess.Process | None:
        """One that waits for work, unless it has ended meanwhile; else a new one."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await _killed(process)
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "api_server.functions"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=dict(self._variables),
                limit=MOST_LINE_BYTES,
                start_new_session=True,
            )
        except OSError:  # no memory, no process number
            log.exception("no process for functions can be started")
            return None


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
