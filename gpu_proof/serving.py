"""The engine and the gateway of one run, as processes of ours on loopback ports."""

import asyncio
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from api_server.errors import SetupError
from api_server.local.process import Command, free_port, last_lines
from api_server.local.programs import run_program
from benchmarks.processes import Running, TargetError, clean_environment, listen, running
from gpu_proof.batching import Counters, counters_of
from gpu_proof.places import REPOSITORY
from gpu_proof.planning import (
    engine_command,
    engine_config,
    gateway_variables,
    parse_lines,
    plan_command,
)

MIB = 1024**2
ENGINE_START_SECONDS = 240.0
GATEWAY_START_SECONDS = 60.0
PLAN_SECONDS = 60.0
ASK_SECONDS = 10.0
_PASSED = ("PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
SHIPPED_CONFIG = REPOSITORY / "configs" / "llama-cpp-config.yaml"


@dataclass(frozen=True)
class Stack:
    """What runs: base URLs, the plan's lines, the engine's log."""

    gateway: str
    engine: str
    plan: dict[str, str]
    engine_log: Path

    @property
    def slots(self) -> int:
        return int(self.plan["ENGINE_SLOTS"])

    async def counters(self) -> Counters:
        """The engine's, now. Raises SetupError when it does not tell."""
        try:
            return counters_of(await asyncio.to_thread(ask, f"{self.engine}/metrics"))
        except (OSError, ValueError) as exc:
            raise SetupError(f"the engine does not tell its counters: {exc}") from exc


def environment(**more: str) -> dict[str, str]:
    """Of our processes: a clean one, and where packages and drivers are."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return clean_environment(**(passed | more))


def ask(url: str) -> str:
    """The body of an answer with status 200. Raises OSError."""
    with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:  # noqa: S310 - our own
        body: bytes = answer.read()
    return body.decode()


async def plan(
    model: Path, slots: int, gpu_memory_mib: int | None, folder: Path
) -> tuple[dict[str, str], Path]:
    """The planner's lines, and the engine's file they come from. Raises SetupError."""
    config = folder / "llama-cpp-config.yaml"
    config.write_text(engine_config(SHIPPED_CONFIG.read_text(encoding="utf-8"), slots))
    host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    argv = plan_command(sys.executable, config, model, gpu_memory_mib, host_mib)
    try:
        async with asyncio.timeout(PLAN_SECONDS):
            outcome = await run_program(["env", "-C", str(REPOSITORY), *argv])
    except TimeoutError as exc:
        raise SetupError(f"the engine was not planned within {PLAN_SECONDS:g} s") from exc
    if outcome.returncode:
        raise SetupError("the engine cannot be planned: " + " ".join(outcome.lines[-3:]))
    return parse_lines("\n".join(outcome.lines)), config


@asynccontextmanager
async def serving(
    server: Path, model: Path, slots: int, gpu_memory_mib: int | None, folder: Path
) -> AsyncIterator[Stack]:
    """Both, ready; gone at the end. Raises SetupError, with their last words.

    Absolute paths; the folder is there, for logs.
    """
    values, config = await plan(model, slots, gpu_memory_mib, folder)
    port = free_port()
    engine_url = f"http://127.0.0.1:{port}"
    engine_log = folder / "engine.log"
    argv = engine_command(server, model, port, values)
    engine = Command("the engine", argv, environment(), engine_log)
    try:
        async with running(engine) as engine_process:
            await _ready(engine_process, f"{engine_url}/health", ENGINE_START_SECONDS)
            with listen() as listener:
                gateway_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                variables = gateway_variables(values, engine_url, config)
                gateway = Command(
                    "the gateway",
                    [sys.executable, "-m", "api_server", "serve"],
                    environment(
                        **variables,
                        LISTEN_FD=str(listener.fileno()),
                        DATA_DIR=str(folder / "data"),
                    ),
                    folder / "gateway.log",
                    (listener.fileno(),),
                )
                async with running(gateway) as process:
                    await _ready(process, f"{gateway_url}/health/ready", GATEWAY_START_SECONDS)
                    yield Stack(gateway_url, engine_url, values, engine_log)
    except TargetError as exc:
        raise SetupError(str(exc)) from exc


async def _ready(process: Running, url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            process.raise_if_ended()
        except TargetError as exc:
            raise SetupError(f"{process.program.name} {exc}") from exc
        try:
            await asyncio.to_thread(ask, url)
        except OSError as exc:  # also an answer that is not 200
            if time.monotonic() > deadline:
                tail = last_lines(process.program.log_path, 5)
                raise SetupError(
                    f"{process.program.name} was not ready within {seconds:g} s ({exc}): {tail}"
                ) from exc
            await asyncio.sleep(0.2)
        else:
            return


async def run_load(arguments: Sequence[str], seconds: float) -> tuple[int, list[str]]:
    """`python -m load_tests`: its exit code and its last lines. Raises TimeoutError."""
    argv = ["env", "-C", str(REPOSITORY), sys.executable, "-m", "load_tests", *arguments]
    async with asyncio.timeout(seconds):
        outcome = await run_program(argv)
    return outcome.returncode, outcome.lines
