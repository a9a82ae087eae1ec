"""Runs `python -m load_tests` as a process of its own, for tests."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.results import Result, read_result, read_samples
from load_tests.samples import Sample
from tests.local_stack import REPOSITORY

RUN_SECONDS = 60
PATIENT = ("--max-lag-ms", "2000")
"""Where it is not about lag: tests share the machine with whatever else runs."""


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    code: int
    output: str
    folder: Path

    @property
    def result(self) -> Result:
        return read_result(self.folder)

    @property
    def samples(self) -> list[Sample]:
        return list(read_samples(self.folder))


async def command(
    *arguments: str, key: str = "", seconds: float = RUN_SECONDS, **more: Any
) -> tuple[int, str]:
    """A program in Python: its exit code and what it said. `key` is that of the gateway."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        env=os.environ | {"OPENAI_API_KEY": key, "MODEL_NAME": ""},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **({"cwd": REPOSITORY} | more),
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode()


async def load(url: str, folder: Path, *options: str, key: str = "") -> Run:
    """One run, with its result in a folder."""
    given = ("--host", url, "--out", str(folder))
    return Run(*await command("-m", "load_tests", *given, *options, key=key), folder)
