"""Gateways and workers as processes that share a queue, for tests that kill and stop them."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.local_stack import NEUTRAL, REPOSITORY
from tests.replicas import Replica


class Program:
    """`python -m api_server ...`, that is killed and started again."""

    def __init__(self, verb: str, environment: dict[str, str], log: Path) -> None:
        self._verb = verb
        self._environment = environment
        self._log = log
        self._process: Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "api_server", self._verb),
                cwd=REPOSITORY,
                env=os.environ | NEUTRAL | self._environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """With SIGTERM, as an operator does; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(20):
            return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def programs(
    folder: Path,
    engine: Replica,
    postgres_url: str,
    port: int,
    verbs: Sequence[str],
    **sections: Any,
) -> list[Program]:
    """One for each verb, `serve` or `worker`, with one stack file; none is started."""
    config = folder / "stack.yaml"
    model = {"id": "fake", "replicas": [engine.url], "slots": 32}
    config.write_text(yaml.safe_dump(sections | {"models": [model]}))
    environment = {"STACK_CONFIG": str(config), "PORT": str(port), "POSTGRES_URL": postgres_url}
    environment |= {"LOG_LEVEL": "warning"}
    return [
        Program(
            verb,
            environment | {"DATA_DIR": str(folder / f"data-{number}")},
            folder / f"{number}.log",
        )
        for number, verb in enumerate(verbs)
    ]
